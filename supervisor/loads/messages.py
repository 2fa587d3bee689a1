"""What passes between a load and the processes that share its work: messages over pipes."""

from __future__ import annotations

import pickle
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from supervisor.broker.options import Broker
from supervisor.journal.events import Event, Record
from supervisor.journal.timeline import Timeline

_LENGTH: Final = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message to a process: everything it needs. Secrets come this way too, which no other process can read."""

    load: bytes
    """The load, pickled: its class may be from `file`, which has to be taken in first."""
    file: tuple[Path, object] | None
    """A file of the user's that its class is from, and what tells whether that has changed."""
    name: str
    run: str
    seed: int
    start: float
    process: int
    processes: int
    owed: float | None
    scheduled: int
    epoch: int | None
    """Which life of the whole load it is; None: its processes tell each other nothing."""
    report: float
    """Seconds from one report of what was counted to the next."""
    logs: bool
    """Whether the logs of the broker's servers can be saved."""
    base: Path
    directory: Path
    environment: Mapping[str, str]
    broker: Broker | None
    timeline: Timeline


class Happened(NamedTuple):
    """To a process: a record about an episode, for its own timeline."""

    record: Record


class Noted(NamedTuple):
    """From a process to all others, and to the load's book."""

    notes: tuple[Any, ...]
    upto: float
    """Monotonic seconds before which nothing happened that is yet to be told."""


class Save(NamedTuple):
    """From a process: save what the broker's servers wrote between two wall times."""

    n: int
    title: str
    since: float
    until: float


class Saved(NamedTuple):
    """To a process: where that is."""

    n: int
    files: Mapping[str, str]


class Ping(NamedTuple):
    """To a process, which sends it back once everything before it was taken in."""

    n: int


class Ready(NamedTuple):
    """From a process: it is ready to begin, and waits for `Go`."""


class Left(NamedTuple):
    """From a process: it needs no more what the load has made; `sound`: nothing was wrong with it."""

    sound: bool


class Leaves(NamedTuple):
    """From a process: a stream that this run has made, and that is to be removed if nothing was wrong with it in any of them."""

    stream: str


class Go(NamedTuple):
    """To a process: begin, with all others, at this instant."""

    at: float
    """Monotonic seconds, which all processes of a machine have alike."""


class Stop(NamedTuple):
    """To a process: finish what is under way, send the rest, and leave."""


class Told(NamedTuple):
    """From a process: an event for the journal."""

    event: Event


class Ended(NamedTuple):
    """From a process, its last word: the load has returned. `error` is the traceback if it raised."""

    error: str = ""
    unworkable: str = ""
    """Why the load cannot work by its settings, if that is why it raised."""


Message = Begin | Happened | Noted | Save | Saved | Ping | Ready | Go | Left | Leaves | Stop | Told | Ended


def pack(message: Message) -> bytes:
    """Return a message as bytes, its length in front."""
    data = pickle.dumps(message)
    return _LENGTH.pack(len(data)) + data


async def messages(read: Callable[[int], Awaitable[bytes]]) -> AsyncIterator[Any]:
    """Yield the messages that come in; ends with the stream, and drops one that was cut off.

    `read` returns up to so many bytes, none at the end. Both ends are ours and of the same code, so unpickling is safe.
    """
    buffer = bytearray()
    while data := await read(1 << 20):
        buffer += data
        while len(buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer)
            if len(buffer) < _LENGTH.size + size:
                break
            yield pickle.loads(bytes(buffer[_LENGTH.size : _LENGTH.size + size]))  # noqa: S301  # see above
            del buffer[: _LENGTH.size + size]
