"""The lifetimes of what uses the system, and of what may end the run for how it fares."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Final

import anyio

from supervisor.broker.connection import Connections
from supervisor.engines.fleet import Fleet
from supervisor.journal.events import EndReason
from supervisor.judge.abort import Abort
from supervisor.lifetimes.run import LOOK, Run
from supervisor.loads.base import Load, LoadContext
from supervisor.loads.crew import run_load
from supervisor.loads.recorder import Recorder
from supervisor.loads.server_logs import UnitLogs

STOP_LOADS: Final = 10.0


@contextmanager
def thresholds(run: Run) -> Generator[None]:
    """End the run as soon as a threshold with `abort` can no longer be kept."""
    watched = [threshold for threshold in run.soak.asked if threshold.abort]
    forget = (
        run.journal.subscribe(Abort(watched, partial(run.end, EndReason.ABORT)).apply) if watched else None
    )
    yield
    if forget:
        forget()


@asynccontextmanager
async def loads(
    run: Run, fleet: Fleet, connections: Connections | None
) -> AsyncGenerator[Callable[[], None]]:
    """Put the system under load; on the way out let every load finish what it is doing, and count it.

    What is yielded emits all that was counted up to now.
    """
    stop, logs = anyio.Event(), UnitLogs(fleet, run.soak.nodes(), run.journal) if run.soak.nodes() else None
    async with AsyncExitStack() as stack:
        recorders: list[Recorder] = []
        async with run.leaves() as counting, run.leaves() as supervisor:
            running: dict[str, anyio.Event] = {}
            for name, load in run.soak.loads.items():
                recorder = Recorder(name, run.journal, run.timeline, every=run.soak.step)
                stack.callback(recorder.flush)
                recorders.append(recorder)
                counting.keep(f"windows {name}", recorder.run)
                context = LoadContext(
                    name=name,
                    run=run.id,
                    base=run.base,
                    directory=run.directory,
                    start=run.start,
                    seed=run.seed,
                    journal=run.journal,
                    timeline=run.timeline,
                    recorder=recorder,
                    stop=stop,
                    connections=connections,
                    server_logs=logs,
                    leftovers=run.leftovers,
                    environment=run.told,
                )
                running[name] = over = anyio.Event()
                supervisor.keep(f"load {name}", partial(_run_load, load, context, over), over)

            def flush() -> None:
                for recorder in recorders:
                    recorder.flush()

            yield flush
            stop.set()
            with anyio.move_on_after(run.end.budget(STOP_LOADS, keep=LOOK), shield=True):
                for over in running.values():
                    await over.wait()


async def _run_load(load: Load, context: LoadContext, over: anyio.Event) -> None:
    try:
        await run_load(load, context)
    except Exception:
        if context.stop.is_set():
            over.set()  # it would be started again only to be stopped
        raise
