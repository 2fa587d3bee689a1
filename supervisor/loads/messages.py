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
    base: Path
    directory: Path
    environment: Mapping[str, str]
    broker: Broker | None
    timeline: Timeline


class Happened(NamedTuple):
    """To a process: a record about an episode, for its own timeline."""

    record: Record


class Ping(NamedTuple):
    """To a process, which sends it back once everything before it was taken in."""

    n: int


class Ready(NamedTuple):
    """From a process: it is ready to begin, and waits for `Go`."""


class Left(NamedTuple):
    """From a process: it needs no more what the load has made; `sound`: nothing was wrong with it."""

    sound: bool


class Leaves(NamedTuple):
    """From a process: a stream that it has made, and that is to be removed unless the run fails."""

    stream: str


class Outlasted(NamedTuple):
    """To the first process: all others need it no more; `sound`: nothing was wrong with it anywhere."""

    sound: bool


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


Message = Begin | Happened | Ping | Ready | Go | Left | Leaves | Outlasted | Stop | Told | Ended


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
