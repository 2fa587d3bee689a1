"""Following an engine's events for as long as a run lives, whatever happens to the stream.

The stream ends when the engine restarts, a slow reader is skipped, and the engine's memory of the past is 256 events. So events say
when to look, and looking says what is true: whenever the stream begins, what the engine remembers is replayed first, for the exit
codes, and then everything is compared with what is seen.
"""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import anyio
import structlog

from supervisor.engines.dockerd.api import Api, ApiError, AwayError
from supervisor.engines.dockerd.names import PROJECT, Which
from supervisor.supervision import nursery

ACTIONS: Final = (
    *("create", "rename", "start", "die", "destroy"),
    *("kill", "oom", "pause", "unpause", "health_status", "update"),
)
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
"""Seconds between two tries to reach an engine that is away."""
RECHECK: Final = 30.0
"""Seconds between two looks at all units while the stream lives: an engine skips a slow reader without a word."""
SET_BACK: Final = 1_000_000_000
"""Nanoseconds by which the engine's clock is behind its last event if it was set back; less is an error of our estimate."""
_READ: Final = 200
_LINE: Final = 1_000_000
"""Bytes of one event at most; labels make them long."""
_log: Final = structlog.get_logger("soakd.docker")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a container."""

    action: str
    container: str
    at: int
    """Nanoseconds since the epoch, by the engine's clock."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """The container's labels, its name and image, and what the action adds."""

    @property
    def name(self) -> str:
        """The container's name."""
        return self.attributes.get("name", "")

    @property
    def signal(self) -> int:
        """The signal of a `kill`, written as 9, SIGKILL or KILL; 0 if it is none that we know."""
        text = self.attributes.get("signal", "").upper()
        if text.isdigit():
            return int(text)
        name = text if text.startswith("SIG") else f"SIG{text}"
        return signal.Signals[name] if name in signal.Signals.__members__ else 0


def parse(data: Mapping[str, Any]) -> Event:
    """Read one event."""
    actor = data["Actor"]
    return Event(data["Action"], actor["ID"], data["timeNano"], actor.get("Attributes") or {})


class TornError(AwayError):
    """A line of the stream is no event."""


class Listener(Protocol):
    """Who is told of events. ApiError from those that look means that the engine is away again."""

    def take(self, event: Event) -> None:
        """Take one event; they come in order."""

    def lost(self) -> None:
        """Take note that the stream has ended."""

    async def compare_all(self) -> None:
        """Look at everything: some events may have been missed."""

    async def recheck(self) -> None:
        """Look, at little cost, whether something is amiss."""


class Follower:
    """Reads the events for as long as it runs."""

    def __init__(self, api: Api, which: Which, listener: Listener) -> None:
        self._api, self._listener = api, listener
        self._filters: dict[str, list[str]] = {"type": ["container"], "event": list(ACTIONS)}
        if label := f"{PROJECT}={which.project}" if which.project else which.label:
            self._filters["label"] = [label]
        self._seen = api.now()
        self.begun = anyio.Event()
        """Set once the first comparison is over: from then on nothing is missed."""

    async def run(self) -> None:
        """Follow for ever. A leaf task of the engine."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self._replay()
                await self._live()
                why = "the engine ended it"
            except ApiError as error:
                why = str(error)
                if isinstance(
                    error, TornError
                ):  # it would come again: what has happened by now is seen by looking
                    self._seen = self._api.now()
            if self._api.online.is_set():
                _log.warning("the stream of events is lost: connecting again", why=why)
                pause = FIRST_PAUSE
                self._listener.lost()
            self._api.offline()
            await anyio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _params(self) -> dict[str, object]:
        return {"since": _written(self._seen + 1), "filters": json.dumps(self._filters)}

    async def _replay(self) -> None:
        """Take what the engine remembers of the time since the last event, by its own clock: it would wait for a time to come."""
        if not self.begun.is_set():
            return
        await self._api.compare_clocks()  # it may have been set meanwhile
        now = self._api.now()
        if now < self._seen - SET_BACK:
            self._seen = now
        if now <= self._seen + 1:
            return
        async for event in events(self._api, self._params(), self._seen + 1, now):
            self._take(event)

    async def _live(self) -> None:
        """Take events as they happen, until the stream ends."""
        async with self._api.stream("events", self._params()) as answer, nursery() as group:
            await self._listener.compare_all()
            if not self._api.online.is_set():
                _log.debug("following the events")
            self._api.online.set()
            self.begun.set()
            group.start_soon(self._look_again, name="docker recheck")
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for event in _read(lines):
                    self._take(event)
                if len(rest) > _LINE:
                    break

    def _take(self, event: Event) -> None:
        self._seen = max(self._seen, event.at)
        self._listener.take(event)

    async def _look_again(self) -> None:
        while True:
            await anyio.sleep(RECHECK)
            with suppress(ApiError):
                await self._listener.recheck()


async def events(api: Api, params: Mapping[str, object], since: int, until: int) -> AsyncIterator[Event]:
    """Yield what the engine remembers of the time between two times of its own, both in nanoseconds since the epoch."""
    times = {"since": _written(since), "until": _written(until)}
    async with api.answer("GET", "events", params={**params, **times}) as answer:
        lines = (await answer.read()).splitlines()
    for event in _read(lines):
        yield event


def _read(lines: Iterable[bytes]) -> Iterator[Event]:
    """Read events, each a line; TornError of one that is none: an engine, or what stands before it, has torn it."""
    for line in lines:
        if line.strip():
            try:
                yield parse(json.loads(line))
            except (ValueError, LookupError, TypeError) as error:
                raise TornError(_READ, f"its event {line[:200]!r} cannot be read") from error


def _written(at: int) -> str:
    seconds, nanos = divmod(at, 1_000_000_000)
    return f"{seconds}.{nanos:09d}"
