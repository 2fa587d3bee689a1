"""The outermost lifetime: the run is shown, whatever becomes of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import structlog

from supervisor.lifetimes.run import CannotStart, Run
from supervisor.live.target import ENDPOINT
from supervisor.telemetry import console, metrics, narrate, systemd
from supervisor.telemetry.lag import Lag, sample
from supervisor.telemetry.logging import configure
from supervisor.telemetry.output import Output
from supervisor.web.app import EndpointError, serve

_log: Final = structlog.get_logger("soakd")


@asynccontextmanager
async def telemetry(run: Run, output: Output, secrets: frozenset[str]) -> AsyncGenerator[None]:
    """Show the run: log lines, live view, endpoint, service manager, and the sampler of gauges."""
    status, lag = run.status, Lag()
    run.journal.subscribe(run.timeline.apply)
    run.journal.subscribe(status.apply)
    screen = console.Screen(status, output) if output.isatty() else None
    configure(screen or output, terminal=screen is not None, secrets=secrets)
    run.journal.subscribe(narrate.narrate)
    web = run.soak.web
    try:
        registry, ready = metrics.registry(status), lambda: run.start > 0
        async with (
            serve(status, registry, ready, web.host, web.port, more=run.more) as url,
            _announced(run.directory / ENDPOINT, url),
            run.leaves() as supervisor,
        ):
            _log.info("endpoint", url=url, run_dir=str(run.directory))
            supervisor.keep("lag", lag.run)
            supervisor.keep("observations", partial(sample, run.journal, lag, run.gauges))
            supervisor.keep("service manager", partial(systemd.keep_alive, lambda: lag.ticks))
            supervisor.keep("guardian", partial(run.guardian.watch, run.end))
            if screen is not None:
                supervisor.keep("console", screen.run)
            yield
    except EndpointError as error:
        raise CannotStart(str(error)) from error


@asynccontextmanager
async def _announced(file: Path, url: str) -> AsyncGenerator[None]:
    """Let others of this host find the endpoint as long as it is open; a disk that is full does not end a run."""
    with suppress(OSError):
        await anyio.to_thread.run_sync(file.write_text, f"{url}\n")
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True), suppress(OSError):
            await anyio.to_thread.run_sync(file.unlink)
