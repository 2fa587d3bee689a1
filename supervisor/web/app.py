"""The HTTP endpoint: `/metrics`, `/healthz`, `/readyz`, `/status`. On 127.0.0.1 unless the soak file says otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from supervisor.telemetry.status import Status, as_json

SHUTDOWN: Final = 1.0
"""Seconds that open requests are given at the end of a run."""
INDEX: Final = """soakd

/metrics   Prometheus metrics
/healthz   200 while the daemon lives
/readyz    200 while a soak is running, 503 before and after
/status    the run as JSON; ?rows=, streams_from=, entries_from=, match=, sort=change|name|messages choose what of the broker
"""

More = Callable[[Mapping[str, str]], Mapping[str, Any]]
"""Returns what `/status` has besides the picture of the run, for the query of the request; ValueError for a query that is wrong."""


class EndpointError(Exception):
    """The endpoint could not be opened; the text says why and what to do."""


def application(
    status: Status, registry: CollectorRegistry, ready: Callable[[], bool], more: More
) -> web.Application:
    """Return the endpoint's application."""

    async def index(_: web.Request) -> web.Response:
        return web.Response(text=INDEX)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return (
            web.Response(text="soaking\n") if ready() else web.Response(status=503, text=f"{status.phase}\n")
        )

    async def picture(request: web.Request) -> web.Response:
        try:
            return web.json_response({**as_json(status), **more(request.query)})
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_get("/metrics", make_aiohttp_handler(registry))
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/status", picture)
    return app


@asynccontextmanager
async def serve(
    status: Status,
    registry: CollectorRegistry,
    ready: Callable[[], bool],
    host: str,
    port: int,
    *,
    more: More = lambda _: {},
) -> AsyncIterator[str]:
    """Serve the endpoint and yield its URL; port 0 takes a free one. EndpointError if the address cannot be had."""
    app = application(status, registry, ready, more)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            reason = error.strerror or str(error)
            raise EndpointError(
                f"cannot open the endpoint on {host}:{port}: {reason}; set web.port to a free port, or to 0 for any"
            ) from error
        bound_host, bound_port = runner.addresses[0][:2]
        shown = f"[{bound_host}]" if ":" in bound_host else bound_host
        yield f"http://{shown}:{bound_port}"
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2 * SHUTDOWN):
            await runner.cleanup()
