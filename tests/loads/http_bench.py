"""A real HTTP server in the test's process, on a free port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def service(answer: Answer) -> AsyncIterator[str]:
    """Answer every request with a coroutine; yields the URL of the root, without a slash at its end."""
    runner = web.ServerRunner(web.Server(answer, access_log=None))  # type: ignore[arg-type]  # a request is a request
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
