"""A proxy in front of an engine's socket that lets through the calls of docs/docker-api.md and no others."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from docker_client import reached
from yarl import URL

PAGE = Path(__file__).parents[3] / "docs" / "docker-api.md"
VERSION = r"/v1\.[0-9]+"
_BEGIN = 10.0
_NOT_OURS = {"host", "connection", "transfer-encoding", "content-length"}


def patterns() -> dict[str, str]:
    """Return the pattern of each name in braces, as the page has it."""
    found: dict[str, str] = {}
    for names, pattern in re.findall(
        r"^\| ((?:`\{\w+\}`(?:, )?)+) \| `(.+)` \|$", PAGE.read_text(), re.MULTILINE
    ):
        found |= dict.fromkeys(re.findall(r"\w+", names), pattern.replace("\\|", "|"))
    return found


def listed() -> dict[tuple[str, str], str]:
    """Return the calls that the page lists, method and path, and the pattern that a path must match."""
    calls, named = re.findall(r"^\| ([A-Z]+) \| `(/\S+)` \|", PAGE.read_text(), re.MULTILINE), patterns()
    return {(method, path): re.sub(r"\{(\w+)\}", lambda name: named[name[1]], path) for method, path in calls}


class Gate:
    """What was let through, and what was not."""

    def __init__(self, path: Path | None, engine: str, without: str = "") -> None:
        self.path, self._engine = path, engine
        self.url = f"unix://{path}"
        self._calls = {
            call: re.compile(f"(?:{VERSION})?{pattern}")
            for call, pattern in listed().items()
            if call[1] != without
        }
        self.used: set[tuple[str, str]] = set()
        self.refused: list[str] = []
        self.torn: list[bytes] = []
        """What is put before the next events, one before each."""
        self.away = 0
        """Calls that came while the engine was not there."""

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        call = next(
            (
                call
                for call, pattern in self._calls.items()
                if call[0] == request.method and pattern.fullmatch(path)
            ),
            None,
        )
        if call is None:
            self.refused.append(f"{request.method} {path}")
            return web.json_response({"message": f"{request.method} {path} is not let through"}, status=403)
        self.used.add(call)
        through = web.StreamResponse()
        try:
            await self._pass_on(request, through)
        except aiohttp.ClientError as error:  # as proxies do
            if not through.prepared:
                self.away += 1
                return web.Response(status=502, text=f"Bad Gateway: {error}")
            assert request.transport
            request.transport.abort()
        return through

    async def _pass_on(self, request: web.BaseRequest, through: web.StreamResponse) -> None:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _NOT_OURS}
        place, data = reached(self._engine), await request.read() or None
        host = place if isinstance(place, str) else f"{place[0]}:{place[1]}"
        connector = aiohttp.UnixConnector(place) if isinstance(place, str) else aiohttp.TCPConnector()
        url = URL(f"http://{'docker' if place == host else host}{request.raw_path}", encoded=True)
        async with (
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
            session.request(
                request.method, url, headers=headers, data=data, timeout=aiohttp.ClientTimeout()
            ) as answer,
        ):
            through.set_status(answer.status)
            through.content_type = answer.content_type
            await through.prepare(request)
            async for chunk in answer.content.iter_any():
                if self.torn and request.path.endswith("/events"):
                    await through.write(self.torn.pop(0))
                await through.write(chunk)
            await through.write_eof()

    async def serve(self, begun: threading.Event, over: asyncio.Event) -> None:
        """Serve until `over`."""
        runner = web.ServerRunner(web.Server(self._handle, handler_cancellation=True), shutdown_timeout=1.0)
        await runner.setup()
        site = web.UnixSite(runner, str(self.path)) if self.path else web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        if not self.path:
            self.url = "tcp://{}:{}".format(*runner.addresses[0])
        begun.set()
        await over.wait()
        await runner.cleanup()


@contextmanager
def gated(engine: str, folder: Path | None, without: str = "") -> Iterator[Gate]:
    """Run a gate in a thread of its own, since tests block; `without` a path of the list. Without a folder it listens on TCP."""
    path = folder / "gate.sock" if folder else None
    gate, begun, over = Gate(path, engine, without), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(gate.serve(begun, over)), name="gate")
    thread.start()
    try:
        assert begun.wait(_BEGIN)
        yield gate
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
