"""Talking to a Docker engine: where it is, and calls that always come to an end.

aiodocker brings the connection and the protocol. Its own event subscription is not used: once the stream has ended it hands out
queues that nobody fills (see `follower.py`).
"""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack, cast
from urllib.parse import urlsplit

import aiodocker
import aiohttp
import anyio
from aiodocker.exceptions import DockerError
from anyio import to_thread

from supervisor.engines.base import EngineError
from supervisor.engines.dockerd.container import nanoseconds

SOCKET: Final = "unix:///var/run/docker.sock"
SCHEMES: Final = ("unix://", "tcp://", "http://", "https://")
_NO_PORT: Final = re.compile(r"tcp://([^:/\[\]]+|\[[^\]]*\])/?")
_PORT: Final = 2375
_TLS_PORT: Final = 2376
"""Where the docker command looks for an engine whose port is not said."""
CLOSE: Final = 2.0
"""Seconds that closing the connections may take."""
AWAY: Final = 60.0
"""Seconds that a call waits for an engine which is away: dockerd restarts within seconds, a package's upgrade within a minute."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 1.0
"""Seconds between two tries of a call to an engine that is away."""
_REFUSED: Final = 403
"""What a proxy in front of the engine gives for a call that it does not let through; engines give it to nobody."""
_BEHIND: Final = frozenset({502, 503, 504})
"""What a proxy gives while the engine behind it is away."""
_NO_CONNECTION: Final = 900
"""What aiodocker gives as the status when nobody answers."""

Json = dict[str, Any]


class Asked(TypedDict, total=False):
    """What a call says beside its method and path."""

    params: Mapping[str, object]
    body: Json | bytes
    """JSON, or an archive."""
    deadline: float
    """Seconds for the whole answer; the engine's own `timeout` if nothing is said."""


class ApiError(EngineError):
    """The engine refused a call. Its own words are in the text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AwayError(ApiError):
    """The engine did not answer: it is not there, or it hangs."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files that prove who is who, for an engine behind TCP."""

    ca: Path | None
    cert: Path | None
    key: Path | None

    def context(self) -> ssl.SSLContext:
        """Read the files; OSError or ssl.SSLError if they are no use. Blocks."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self.ca)
        if self.cert:
            context.load_cert_chain(self.cert, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine is."""

    url: str
    tls: Tls | None = None

    @classmethod
    def of(cls, host: str | None, tls: Tls | None, environ: Mapping[str, str] = os.environ) -> Endpoint:
        """Return the place that is written, or else what the docker command would use: DOCKER_HOST, the local socket."""
        if host is None:
            host = environ.get("DOCKER_HOST") or SOCKET
            folder = environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker"
            if tls is None and environ.get("DOCKER_TLS_VERIFY") and not host.startswith("unix:"):
                tls = Tls(*(Path(folder) / name for name in ("ca.pem", "cert.pem", "key.pem")))
        if _NO_PORT.fullmatch(host):
            host = f"{host.rstrip('/')}:{_PORT if tls is None else _TLS_PORT}"
        if tls is not None:
            host = host.replace("tcp://", "https://", 1)
        return cls(host, tls)

    @property
    def wrong(self) -> str:
        """Say what is wrong with the URL; empty if nothing is."""
        if not self.url.startswith(SCHEMES):
            return (
                f"expected {', '.join(SCHEMES)}; bring one behind ssh here with "
                "`ssh -N -L /run/user/1000/docker.sock:/var/run/docker.sock HOST`, and say host: unix:///run/user/1000/docker.sock"
            )
        try:
            place = urlsplit(self.url)
            port = place.port
        except ValueError as error:  # no number, or no IPv6 address
            return f"{str(error).lower()}; expected host and port, as in tcp://10.0.0.7:2375"
        if place.scheme == "unix":
            return "" if place.path and not place.netloc else "expected unix:/// and the path of a socket"
        return "" if place.hostname and port != 0 else "expected a host, as in tcp://10.0.0.7:2375"


class Api:
    """Calls to one engine. Each ends within its deadline, in an answer or an EngineError."""

    def __init__(self, docker: aiodocker.Docker, endpoint: Endpoint, deadline: float) -> None:
        self._docker, self._endpoint, self._deadline = docker, endpoint, deadline
        self.online = anyio.Event()
        """Set while the engine is known to be there; replaced when it is known to be away."""
        self._ahead = 0
        """Nanoseconds by which the engine's clock is ahead of ours."""

    def now(self) -> int:
        """Return the time by the engine's clock, nanoseconds since the epoch: its events, lives and logs go by that one."""
        return time.time_ns() + self._ahead

    def theirs(self, wall: float) -> float:
        """Return a time of ours by the engine's clock, both in seconds since the epoch."""
        return wall + self._ahead / 1_000_000_000

    def ago(self, at: int) -> float:
        """Return the seconds that have gone by since a time of the engine's, which is in nanoseconds since the epoch."""
        return (self.now() - at) / 1_000_000_000

    async def compare_clocks(self) -> None:
        """Ask for the engine's time; ApiError if it does not answer. A remote engine's clock may be hours off, and may be set."""
        asked = time.time_ns()
        said = nanoseconds((await self.call("GET", "info"))["SystemTime"])
        heard = time.time_ns()
        # A time between question and answer is no sign of another clock, and most engines share ours: half of the time that
        # a busy one takes to answer would cut off the last words of a log.
        self._ahead = 0 if asked <= said <= heard else said - (asked + heard) // 2

    def offline(self) -> None:
        """Take note that the engine is away: calls that can wait do."""
        if self.online.is_set():
            self.online = anyio.Event()

    async def call(self, method: str, path: str, **asked: Unpack[Asked]) -> Any:
        """Make one call; return its JSON, None if there is none. ApiError has the engine's status."""
        async with self.answer(method, path, **asked) as response:
            data = await response.read()
        if not data.strip():
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            raise ApiError(response.status, f"{method} {path}: the engine's answer is no JSON") from error

    async def insist(self, method: str, path: str, **asked: Unpack[Asked]) -> Any:
        """Make a call that may be made twice: an engine that is away is waited for, up to `AWAY` seconds."""
        until, pause = anyio.current_time() + AWAY, FIRST_PAUSE
        while True:
            try:
                return await self.call(method, path, **asked)
            except AwayError:
                if anyio.current_time() >= until:
                    raise
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            with anyio.move_on_after(until - anyio.current_time()):
                await self.online.wait()  # whoever follows its events sees it come back, and compares first

    @asynccontextmanager
    async def answer(
        self, method: str, path: str, **asked: Unpack[Asked]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make one call and yield its answer, which is read within the same deadline."""
        limit = asked.get("deadline") or self._deadline
        try:
            with anyio.fail_after(limit):
                async with self._query(method, path, asked.get("params"), asked.get("body")) as response:
                    yield response
        except TimeoutError as error:
            raise AwayError(
                _NO_CONNECTION,
                f"{method} {path}: the Docker engine at {self._endpoint.url} did not answer within {limit:g} s",
            ) from error

    @asynccontextmanager
    async def stream(self, path: str, params: Mapping[str, object]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open an answer that goes on until it is closed; only its beginning has a deadline."""
        with anyio.CancelScope(deadline=anyio.current_time() + self._deadline) as beginning:
            async with self._query("GET", path, params, None) as response:
                beginning.deadline = float("inf")
                yield response
        if beginning.cancelled_caught:
            raise AwayError(
                _NO_CONNECTION,
                f"{path}: the Docker engine at {self._endpoint.url} did not answer within {self._deadline:g} s",
            )

    @asynccontextmanager
    async def _query(
        self, method: str, path: str, params: Mapping[str, object] | None, body: Json | bytes | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        data = json.dumps(body) if isinstance(body, dict) else body
        kind = {"Content-Type": "application/x-tar"} if isinstance(body, bytes) else None
        query = self._docker._query  # noqa: SLF001  # its public calls cover neither /update nor events from a time on
        try:
            async with query(path, method, params=cast("Any", params), data=data, headers=kind) as response:
                try:
                    yield response
                finally:
                    response.close()
        except DockerError as error:
            if error.status == _NO_CONNECTION:
                raise AwayError(error.status, f"cannot reach the Docker engine: {error.message}") from error
            said = str(error.message).strip()
            if error.status in _BEHIND:
                raise AwayError(
                    error.status, f"cannot reach the Docker engine behind {self._endpoint.url}: {said}"
                ) from error
            if error.status == _REFUSED:
                said = f"{method} /{path} is refused ({said}): let whatever stands before the engine allow it, see docs/docker-api.md"
            raise ApiError(error.status, said) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            what = str(error) or type(error).__name__
            raise AwayError(
                _NO_CONNECTION, f"the Docker engine at {self._endpoint.url} broke off: {what}"
            ) from error


def connect(endpoint: Endpoint, deadline: float) -> AbstractAsyncContextManager[Api]:
    """Open an engine; EngineError if it does not answer."""
    return _connect(endpoint, deadline)


@asynccontextmanager
async def _connect(endpoint: Endpoint, deadline: float) -> AsyncIterator[Api]:
    if endpoint.wrong:
        raise EngineError(f"cannot use the Docker engine at {endpoint.url}: {endpoint.wrong}")
    try:
        context = await to_thread.run_sync(endpoint.tls.context) if endpoint.tls else None
        docker = aiodocker.Docker(endpoint.url, ssl_context=context, timeout=aiohttp.ClientTimeout())
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise EngineError(f"cannot use the Docker engine at {endpoint.url}: {error}") from error
    try:
        api = Api(docker, endpoint, deadline)
        try:
            await api.call("GET", "version")
            await api.compare_clocks()
        except ApiError as error:
            raise EngineError(
                f"{error}; start Docker, or say where it is with `host` or DOCKER_HOST"
            ) from error
        yield api
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE):
            await docker.close()
