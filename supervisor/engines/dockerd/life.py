"""The lives of one unit, as events and inspections tell of them. `units.py` looks, this remembers and compares.

A life is named by its container and the time it began, by the engine's clock; so are the moments up to which ends have been told.
Events and inspections may then come in any order, twice, or not at all: what is older than what is known is left out.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import anyio
from anyio import to_thread

from supervisor.engines.base import Exit, Observed, UnitState
from supervisor.engines.dockerd.container import Container, ended, incarnation
from supervisor.engines.dockerd.kernel import oom_kills, oom_record, runs_here

ANSWERING: Final = 600 * 1_000_000_000
"""Nanoseconds in which a signal from outside may still explain an exit: a lame duck takes two minutes by default."""
ENDING: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGUSR2, signal.SIGTERM})
"""Signals that are sent to end a unit, USR2 being nats-server's lame duck; so is a container's own stop signal. Any other, such as a
HUP to read a configuration again, explains only an exit by that very signal."""
_NANO: Final = 1_000_000_000


@dataclass(slots=True)
class Life:
    """One life of a unit."""

    container: str
    begun: int
    pid: int | None
    started: float
    """Monotonic seconds."""
    paused: bool = False
    starved: anyio.Event = field(default_factory=anyio.Event)
    """Set once the engine has told that it was out of memory."""
    oom_kills: int | None = None
    """How often its kernel had killed for want of memory before this life was in danger; None: that is not known."""
    ours: bool = False
    """We are ending it: no signal that is seen now is anybody else's."""
    asked: bool = False
    """We had the engine signal it, with whatever: that it is left down by the engine is then no sign of anybody else."""
    signalled: dict[int, int] = field(default_factory=dict)
    """When somebody outside last sent which signal, of those that may end it."""
    gone: anyio.Event = field(default_factory=anyio.Event)
    """Set once its end has been told."""

    @property
    def incarnation(self) -> str:
        """Its name."""
        return incarnation(self.container, self.begun)


def since(at: int) -> float:
    """Return the seconds since a time in nanoseconds since the epoch, for an engine that shares our clock."""
    return time.time() - at / _NANO


class Unit:
    """One unit: its containers, oldest first, and its life if it is up."""

    def __init__(self, name: str, ago: Callable[[int], float] = since) -> None:
        """`ago` gives the seconds since a time of the engine's (`Api.ago`)."""
        self.name, self._ago = name, ago
        self.containers: list[str] = []
        """Ids; the last is the youngest, which is the one to start."""
        self.last: Container | None = None
        """Its container as it was last looked at."""
        self.labels: Mapping[str, str] = {}
        self.life: Life | None = None
        self._starved = 0
        """The last record of the kernel's log that told of a life which ended for want of memory."""
        self.told = 0
        """The end of the last life that was told, nanoseconds since the epoch."""
        self.ended: Exit | None = None
        """The last exit."""
        self.sent: Counter[int] = Counter()
        """Signals of ours whose events have not come yet."""
        self.lock = anyio.Lock()
        """Held by a start and by whoever takes an event, so that no end is told before the start it belongs to."""
        self.begins = anyio.Event()
        """Set, and replaced, when a life begins."""

    @property
    def container(self) -> str | None:
        """The container that counts: the one that lives, else the youngest."""
        if self.life:
            return self.life.container
        return self.containers[-1] if self.containers else None

    def knows(self, container: str) -> bool:
        """Whether a container is one of this unit's."""
        return container in self.containers

    def adopt(self, container: str) -> None:
        """Take note of a container of this unit."""
        if container not in self.containers:
            self.containers.append(container)

    def observed(self) -> Observed:
        """Say what is known."""
        if self.life:
            state = UnitState.PAUSED if self.life.paused else UnitState.UP
            return Observed(
                state, self.life.incarnation, self.life.pid, self.life.started, labels=self.labels
            )
        state = UnitState.DOWN if self.containers else UnitState.ABSENT
        return Observed(state, labels=self.labels, last=self.last.incarnation if self.last else None)

    def begin(self, seen: Container, begun: int, *, started: float | None = None) -> Life:
        """Take note of a life that began."""
        self.adopt(seen.id)
        self.last, self.labels = seen, seen.labels
        now = time.monotonic()
        moment = now - self._ago(begun) if started is None else started
        self.life = Life(seen.id, begun, seen.pid, min(moment, now), paused=seen.paused)
        self.sent.clear()
        self.begins.set()
        self.begins = anyio.Event()
        return self.life

    def is_new(self, seen: Container) -> bool:
        """Say whether an inspection shows a life whose end was not told."""
        return seen.begun > self.told and (
            self.life is None or (seen.id, seen.begun) != (self.life.container, self.life.begun)
        )

    def signalled(self, number: int, at: int) -> None:
        """Take note that a signal which may end it was sent, by us or by somebody else."""
        if self.sent[number] > 0:
            self.sent[number] -= 1
        elif self.life and at >= self.life.begun:
            self.life.signalled[number] = at

    async def count_kills(self, before: int | None) -> None:
        """Take note of what this machine's kernel had counted before the present life was in danger, if it is the container's, too."""
        if life := self.life:
            here = await to_thread.run_sync(runs_here, life.pid, life.container)
            life.oom_kills = before if here else None

    async def outlived(self, when: float, kills: int | None) -> None:
        """Take note that the present life is still there so long after `when`, monotonic seconds, that no kill counted then was its end."""
        life, limited = self.life, self.last is not None and self.last.memory > 0
        if life and limited and life.started < when and life.oom_kills != kills:
            await self.count_kills(kills)

    async def may_have_starved(self, code: int) -> bool:
        """Say whether an exit may be for want of memory though that has not been told yet."""
        life, limited = self.life, self.last is not None and self.last.memory > 0
        if life is None or not limited or life.ours or life.signalled or ended(code)[1] != "SIGKILL":
            return False
        return life.oom_kills is None or life.oom_kills != await to_thread.run_sync(oom_kills)

    async def ask_kernel(self) -> bool:
        """Say whether this machine's kernel tells that the present life ended for want of memory: a busy engine may never do."""
        if life := self.life:
            record = await to_thread.run_sync(oom_record, life.container, life.started)
            if record > self._starved:
                self._starved = record
                life.starved.set()
            return life.starved.is_set()
        return False

    def end(
        self,
        code: int | None,
        at: int,
        seen: Container | None,
        *,
        live: bool,
        note: str = "",
        removed: bool = False,
    ) -> Exit:
        """Take note of the end of the present life, with its exit code if that is known; return what is to be told.

        `live`: it is told as it happens, so the engine's clock need not be compared with ours. `removed`: nobody saw how it ended, since
        its container is gone, and only somebody outside removes one that does not go by itself.
        """
        life, self.life = self.life, None
        assert life is not None  # noqa: S101  # the callers have looked
        self.told = max(at, life.begun)
        now = time.monotonic()
        mono = now if live else min(max(now - self._ago(at), life.started), now)
        number, name = (None, None) if code is None else ended(code)
        same = seen is not None and (seen.id, seen.begun) == (life.container, life.begun)
        facts = seen.facts if seen else self.last.facts if self.last else {}
        taken = removed and not (self.last and self.last.removes_itself)
        # Events that are lost are not needed where the engine itself has kept somebody's wish in mind.
        left = (
            same
            and not live
            and not (life.asked or life.signalled)
            and seen is not None
            and seen.is_left_down()
        )
        self.ended = Exit(
            self.name,
            life.incarnation,
            number,
            name,
            oom=life.starved.is_set() or (same and seen is not None and seen.oom),
            mono=mono,
            uptime=mono - life.started,
            outside=not life.ours and (taken or left or self._was_asked(life, at, name)),
            wall=at / _NANO + 0.001,
            facts=facts | ({"seen": note} if note else {}),
        )
        if seen:
            self.last = seen
        elif self.last and self.last.id == life.container:
            self.last = replace(self.last, running=False, paused=False, restarting=False)
        life.gone.set()
        return self.ended

    def _was_asked(self, life: Life, at: int, by: str | None) -> bool:
        """Say whether a signal from outside explains an end: one that is meant to end units, or the one that it ended `by`."""
        stop = self.last.stop_signal if self.last else signal.SIGTERM
        return any(
            0 <= at - when <= ANSWERING
            and (number in ENDING or number == stop or (by is not None and signal.Signals[by] == number))
            for number, when in life.signalled.items()
        )

    def health(self, health: str) -> None:
        """Take note of what its own health check says."""
        if self.last and self.life and self.last.id == self.life.container:
            self.last = replace(self.last, health=health)

    def paused(self, *, paused: bool) -> None:
        """Take note of a pause or its end."""
        if self.life:
            self.life.paused = paused

    def forget(self, container: str) -> None:
        """Take note that a container was removed."""
        if container in self.containers:
            self.containers.remove(container)
        if self.last and self.last.id == container:
            self.last = replace(self.last, running=False, restarting=False)
