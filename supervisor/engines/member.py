"""One unit as the fleet knows it: what it is meant to be, who holds it, and who answers for its end."""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import anyio

from supervisor.engines.base import Exit, Observed, Units, UnitState
from supervisor.journal.events import OPERATOR, Cause

PROTECT: Final = "soakd.protect"
"""A unit with this label set to `true` is never the target of an episode."""
LEAVING: Final = 10.0
"""Seconds that a start waits for a process which was told to end: Docker's and systemd's patience is of that order."""
ANSWERING: Final = 600.0
"""Seconds in which a signal that only asks may still explain an exit: nats-server's lame duck takes two minutes by default."""

HARMLESS: Final = frozenset(
    {
        *(signal.SIGCHLD, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP),
        *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGURG, signal.SIGWINCH),
    }
)
"""Signals that do not end a process by default: signal(7)."""
REQUESTS: Final = (
    HARMLESS | {signal.SIGHUP, signal.SIGUSR1} | set(range(signal.SIGRTMIN, signal.SIGRTMAX + 1))
)
"""Signals by which servers are asked for something, such as to read their configuration again. Who does not know one of them and is ended
by it, is so at once. USR2 is none of these: it is nats-server's lame duck."""
OUTSIDE: Final = "outside"
"""Who holds a unit that somebody outside soakd has stopped, taken away or left down: it stays so until he brings it up."""
_CAUSES: Final = {
    "run": Cause.RUN,
    "watchdog": Cause.RUN,
    OPERATOR: Cause.OPERATOR,
    OUTSIDE: Cause.OUTSIDE,
}
_ASKING: Final = frozenset({signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
"""Signals that servers use for requests, lame duck for one: they may end a process, later or never."""


class Held(Exception):  # noqa: N818  # a state of affairs that the caller handles, not a defect
    """Somebody else holds the unit."""


class Protected(Exception):  # noqa: N818  # a state of affairs that the caller handles, not a defect
    """The unit may not be a target."""


class Desired(StrEnum):
    """What a unit is meant to be."""

    UP = "up"
    DOWN = "down"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """What is known of a unit without looking."""

    desired: Desired
    holder: str | None
    observed: Observed
    started_by: str = ""
    """Who started it last."""
    done: bool = False
    """It is down because it has ended in peace, as it may: that is its proper state."""


@dataclass(slots=True)
class _Claim:
    """From when to when somebody answers for the end of a unit. Exits are told late, so claims are compared by their times."""

    by: str
    since: float
    incarnation: str | None = None
    """None: of whichever lives, because it is held down."""
    until: float = math.inf
    asks: bool = False
    """The signal only asks: the claim ends with the hold of who sent it, or after `ANSWERING`."""


class Member:
    """The state of one unit. Its lock is held for transitions only."""

    def __init__(self, unit: str, engine: Units, name: str) -> None:
        self.id, self.engine, self.name = unit, engine, name
        self.lock = anyio.Lock()
        self.desired = Desired.UP
        self.holder: str | None = None
        self.observed: Observed | None = None
        """What was seen last; None: nobody has looked yet."""
        self.was_started: str | None = None
        """The incarnation whose start is on record: an engine may start it while a watchdog waits for that."""
        self.started_by = ""
        """Who started it, as it is on record."""
        self.was_ready: str | None = None
        """The incarnation whose readiness is on record: however many wait for it, it is told once."""
        self.may_end = False
        """Exit code 0 is its proper end."""
        self.ended = False
        """That was its last end."""
        self.exits = 0
        self.changed = anyio.Event()
        """Set, and replaced, when the holder changes or an incarnation ended."""
        self._claims: deque[_Claim] = deque(maxlen=32)

    @property
    def is_up(self) -> bool:
        """Whether it was last seen with a process, frozen or not."""
        return self.observed is not None and self.observed.state in {UnitState.UP, UnitState.PAUSED}

    @property
    def done(self) -> bool:
        """Whether it has come to its proper end and was not started since."""
        return self.ended and self.may_end and not self.is_up

    @property
    def status(self) -> UnitStatus:
        """What is known of it without looking."""
        seen = self.observed or Observed(UnitState.ABSENT)
        return UnitStatus(self.desired, self.holder, seen, self.started_by, self.done)

    @property
    def labels(self) -> Mapping[str, str]:
        """What it was last seen with; none before anybody has looked."""
        return self.observed.labels if self.observed else {}

    @property
    def is_protected(self) -> bool:
        """Whether it may not be the target of an episode."""
        return self.labels.get(PROTECT) == "true"

    def _notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    # --- who may touch it --------------------------------------------------------------------------------------------

    async def admit(self, by: str, what: str) -> None:
        """Refuse whoever may not touch it now, under its lock: raise Held or Protected."""
        self.refuse_others(by, what)
        if self.observed is None:
            await self.look()
        if cause_by(by) is Cause.EPISODE:
            self.refuse_protected(what)

    def refuse_others(self, by: str, what: str) -> None:
        """Raise Held if somebody else has it."""
        if self.holder not in {None, by}:
            raise Held(f"cannot {what} for {by}: {self.id} is held {self.desired} by {self.holder}")

    def refuse_protected(self, what: str) -> None:
        """Raise Protected if it may not be a target."""
        if self.is_protected:
            raise Protected(
                f"cannot {what}: {self.id} has the label {PROTECT}=true; take it out of the fault's units, or the label off it"
            )

    # --- who answers for it ------------------------------------------------------------------------------------------

    def entrust(self, holder: str | None, desired: Desired) -> None:
        """Change who holds the unit and what it is meant to be."""
        now = time.monotonic()
        for claim in self._claims:
            asked = claim.asks and claim.by == self.holder != holder
            if asked or claim.incarnation is None:
                claim.until = min(claim.until, now)
        if holder and desired is Desired.DOWN:
            self._claims.append(_Claim(holder, now))
        self.holder, self.desired = holder, desired
        self._notify()

    def claim(self, by: str, number: int) -> None:
        """Say who is about to send a signal to the incarnation last seen."""
        if self.observed and self.observed.incarnation and number not in HARMLESS:
            now, asks = time.monotonic(), number in _ASKING
            until = now + ANSWERING if asks else math.inf
            self._claims.append(_Claim(by, now, self.observed.incarnation, until, asks))

    def doomed(self) -> bool:
        """Say whether the incarnation last seen was told to end."""
        seen = self.observed.incarnation if self.observed else None
        return any(claim.incarnation == seen and not claim.asks for claim in self._claims)

    def departed(self, gone: Exit) -> tuple[Cause, str | None]:
        """Take note of an exit; return its cause and who answers for it, the first who did before it."""
        ours = [claim for claim in self._claims if claim.incarnation in {None, gone.incarnation}]
        for claim in ours:
            if claim.incarnation:
                self._claims.remove(claim)
        by = next((claim.by for claim in ours if claim.since <= gone.mono <= claim.until), None)
        if self.observed and self.observed.incarnation == gone.incarnation:
            self.observed = Observed(UnitState.DOWN, labels=self.observed.labels)
        self.exits += 1
        self.ended = not by and not gone.outside and self.may_end and gone.code == 0
        self._notify()
        if by:
            return cause_by(by), by
        if gone.outside:
            return Cause.OUTSIDE, None
        return Cause.DONE if self.ended else Cause.CRASH, None

    # --- looking -----------------------------------------------------------------------------------------------------

    async def look(self) -> Observed:
        """Look at the unit, under its lock; once more if it ended meanwhile, since what was seen may be from before."""
        while True:
            exits = self.exits
            seen = await self.engine.observe()
            if exits == self.exits:
                self.observed = seen.get(self.name, Observed(UnitState.ABSENT))
                return self.observed

    async def see_off(self) -> Observed:
        """Wait for a process that was told to end. If it stays, that is forgotten: it does not want to."""
        with anyio.move_on_after(LEAVING):
            while (observed := await self.look()) and self.is_up and self.doomed():
                await self.changed.wait()
            return observed
        self._claims.clear()
        return await self.look()


def cause_by(by: str) -> Cause:
    """Return what it means that an exit was by somebody: anybody but these and the operator's own `operator#n` is an episode."""
    return Cause.OPERATOR if by.startswith(f"{OPERATOR}#") else _CAUSES.get(by, Cause.EPISODE)
