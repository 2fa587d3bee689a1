"""The control endpoint: what an operator may ask of a run, over a unix socket (mode 0600) or over loopback with a token.

`GET /faults`, and `POST` with a JSON object: `/faults/{pause,resume,abort,inject}`,
`/units/{hold,release}`, `/reload`. The answer is JSON: 200 and
`said`, or `error` with 400 (not a request), 401 (no token), 409 (refused, with the reason), 504 (no answer in time).
"""

from __future__ import annotations

import hmac
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import anyio.to_thread
import structlog
from aiohttp import web
from anyio.streams.memory import MemoryObjectSendStream
from pydantic import ValidationError, field_validator

from supervisor.faults.operator import Answer, Operator, Refused
from supervisor.journal.files import write_atomically
from supervisor.kinds import Strict
from supervisor.values import Duration
from supervisor.web.app import SHUTDOWN, EndpointError
from supervisor.web.place import ADDRESS, ANSWER, SOCKET, TOKEN

_log: Final = structlog.get_logger("soakd")
MODE: Final = 0o600
MAX_BYTES: Final = 65536
"""Of a request: names and numbers."""
CLIENTS: Final = 16
"""Requests that may wait to be taken; a person has one."""
_BUG: Final = 500
_WORDS: Final[Mapping[str, str]] = {
    "extra_forbidden": "there is no such key",
    "missing": "it is missing",
    "json_invalid": "expected JSON",
    "model_type": "expected a JSON object",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "literal_error": "expected up or down",
}
"""What is said of a wrong request, by pydantic's name for what is wrong with it."""


class Nothing(Strict):
    """A request without arguments."""


class Pause(Strict):
    """`/faults/pause`."""

    seconds: Duration | None = None
    finish: bool = False

    @field_validator("seconds")
    @classmethod
    def _some(cls, seconds: float | None) -> float | None:
        if seconds == 0:
            raise ValueError("expected more than 0")
        return seconds


class Inject(Strict):
    """`/faults/inject`."""

    fault: str


class Hold(Strict):
    """`/units/hold`."""

    unit: str
    wanted: Literal["up", "down"] | None = None


class Release(Strict):
    """`/units/release`."""

    unit: str


Do = Callable[[Operator, Any], Awaitable[Answer]]
REQUESTS: Final[Mapping[str, tuple[type[Strict], Do]]] = {
    "/faults/pause": (Pause, lambda operator, asked: operator.pause(asked.seconds, finish=asked.finish)),
    "/faults/resume": (Nothing, lambda operator, _: operator.resume()),
    "/faults/abort": (Nothing, lambda operator, _: operator.abort()),
    "/faults/inject": (Inject, lambda operator, asked: operator.inject(asked.fault)),
    "/units/hold": (Hold, lambda operator, asked: operator.hold(asked.unit, asked.wanted)),
    "/units/release": (Release, lambda operator, asked: operator.release(asked.unit)),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the endpoint is: a socket in a directory, or, with a token, a port of this machine."""

    directory: Path
    token: str | None = None
    port: int = 0


Again = Callable[[], Awaitable[Answer]]
"""Reads the soak file again; Refused if it cannot be taken."""


async def control(operator: Operator, place: Place, reload: Again | None = None) -> None:
    """Serve the endpoint; `reload` answers `/reload`. A leaf task: a request that meets a bug of ours ends it, and it is started again."""
    bugs, met = anyio.create_memory_object_stream[Exception](1)
    runner = web.AppRunner(
        _application(operator, place.token, bugs, reload), access_log=None, shutdown_timeout=SHUTDOWN
    )
    await runner.setup()
    try:
        async with bugs, met, _listening(place) as listener:
            await web.SockSite(runner, listener, backlog=CLIENTS).start()
            raise await met.receive()
    except EndpointError as error:
        if await anyio.to_thread.run_sync(place.directory.is_dir):
            raise
        _log.warning("nobody can control this run: its directory is gone", why=str(error))
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2 * SHUTDOWN):
            await runner.cleanup()


def _application(
    operator: Operator, token: str | None, bugs: MemoryObjectSendStream[Exception], reload: Again | None
) -> web.Application:
    @web.middleware
    async def guarded(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        if token is not None and not _authorized(request, token):
            return _error(401, f"this endpoint needs its token: set {TOKEN} to it")
        try:
            with anyio.fail_after(ANSWER):
                answer: web.StreamResponse = await handler(request)
        except Exception as error:  # noqa: BLE001  # told to whoever asked; if it is a bug, raised in the leaf
            status, text = _why(error)
            if status == _BUG:
                with suppress(anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    bugs.send_nowait(error)  # one is enough
            return _error(status, text)
        return answer

    async def overview(_: web.Request) -> web.Response:
        return web.json_response(operator.overview())

    async def again(_: web.Request) -> web.Response:
        if reload is None:
            raise Refused("this run cannot read its soak file again")
        return web.json_response(await reload())

    app = web.Application(middlewares=[guarded], client_max_size=MAX_BYTES)
    app.router.add_get("/faults", overview)
    app.router.add_post("/reload", again)
    for path, (model, do) in REQUESTS.items():
        app.router.add_post(path, _handler(operator, model, do))
    return app


def _why(error: Exception) -> tuple[int, str]:
    """Return status and text for what kept a request from being answered."""
    match error:
        case Refused():
            return 409, str(error)
        case ValidationError():
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the request"
            return 400, f"{where}: {_WORDS.get(first['type']) or first['msg'].removeprefix('Value error, ')}"
        case TimeoutError():
            return 504, f"there was no answer within {ANSWER:.0f}s: see `soakd fault list`"
        case web.HTTPException():
            return error.status, error.reason
        case _:
            return _BUG, f"this is a bug in soakd itself: {type(error).__name__}: {error}"


def _handler(
    operator: Operator, model: type[Strict], do: Do
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        asked = model.model_validate_json(await request.read() or b"{}")
        return web.json_response(await do(operator, asked))

    return handle


def _authorized(request: web.Request, token: str) -> bool:
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(given.encode(), token.encode())


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


@asynccontextmanager
async def _listening(place: Place) -> AsyncIterator[socket.socket]:
    """Open the socket; a file of the directory says where it is, as long as it is open. EndpointError if it cannot be had."""
    file = place.directory / (SOCKET if place.token is None else ADDRESS)
    try:
        listener = await anyio.to_thread.run_sync(_socket if place.token is None else _port, place)
    except OSError as error:
        where = file if place.token is None else f"127.0.0.1:{place.port}"
        raise EndpointError(
            f"cannot open the control endpoint {where}: {error.strerror or error}; say where else in the soak file, with "
            "`control: {port: 0, token: ...}`"
        ) from error
    try:
        yield listener
    finally:
        listener.close()
        with anyio.CancelScope(shield=True), suppress(OSError):
            await anyio.to_thread.run_sync(partial(file.unlink, missing_ok=True))


def _port(place: Place) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", place.port))
    write_atomically(place.directory / ADDRESS, f"http://127.0.0.1:{listener.getsockname()[1]}\n".encode())
    return listener


def _socket(place: Place) -> socket.socket:
    """Bind a socket in a directory, whose path may be longer than the 107 bytes that the kernel takes for one."""
    (place.directory / SOCKET).unlink(missing_ok=True)  # of a life of this leaf that had no time to remove it
    folder = os.open(place.directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sock = socket.socket(socket.AF_UNIX)
        try:
            os.fchmod(sock.fileno(), MODE)  # the file has it from its first moment on
            sock.bind(f"/proc/self/fd/{folder}/{SOCKET}")
        except OSError:
            sock.close()
            raise
    finally:
        os.close(folder)
    sock.setblocking(False)
    return sock
