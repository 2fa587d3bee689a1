"""A load that one core cannot carry: several processes run it on the same executor, each its share of the operations.

Results merge exactly: windows add up, and what a process did not report before it died is known from memory that outlives it
(`shares.Ledger`). A process that died is started again under supervision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import anyio

from supervisor.journal.events import Event, LoadBroken, LoadStopped, LoadWindow
from supervisor.journal.fold import fold_windows
from supervisor.loads.base import Load, LoadContext
from supervisor.loads.executor import CRASHED, CUT_SHORT
from supervisor.loads.pace import Paced
from supervisor.loads.processes import Process, ProcessDied
from supervisor.supervision import Supervisor, what


async def run_load(load: Load, context: LoadContext) -> None:
    """Run a load, in as many processes as it wants. If it breaks, that is on record, and what was under way indeterminate.

    What was due between an earlier life of the load that crashed and this one is owed, and counts as dropped.
    """
    if context.recorder.next_due is not None:
        context = replace(context, owed=context.recorder.next_due - context.start)
    try:
        if isinstance(load, Paced) and load.processes > 1:
            await _Crew(load, context).run()
        else:
            await load.run(context)
    except Exception as error:
        _break(context, "raised", what(error))
        raise
    except anyio.get_cancelled_exc_class():
        _break(context, "cut short", "it had not returned when its time was over")
        raise


def _break(context: LoadContext, how: Literal["raised", "cut short"], error: str) -> None:
    recorder = context.recorder
    recorder.forsake(CRASHED if how == "raised" else CUT_SHORT, error)
    recorder.flush()
    context.journal.emit(LoadBroken(load=context.name, how=how, error=error))


class _Crew:
    """The processes of one load."""

    def __init__(self, load: Paced, context: LoadContext) -> None:
        self.load, self.context = load, context
        self._open = 0
        self._windows: list[LoadWindow] = []
        self._beyond_help = ""

    async def run(self) -> None:
        """Keep all processes up until the load is to stop, and wait for their last words."""
        name, of = self.context.name, self.load.processes
        leave = self.context.recorder.accompany(self._flush)
        try:
            async with anyio.create_task_group() as group:

                def give_up(why: str) -> None:
                    self._beyond_help = why
                    group.cancel_scope.cancel()

                supervisor = Supervisor(group, self.context.journal, give_up)
                for process in range(of):
                    member = Process(self.load, self.context, process, self._take)
                    supervisor.keep(f"load {name} {member.title}", member.run)
        finally:
            leave()
            self._flush()
        if self._beyond_help:
            raise ProcessDied(self._beyond_help)
        self.context.journal.emit(LoadStopped(load=name, open=self._open))

    def _take(self, event: Event) -> None:
        """Take what a process tells."""
        if isinstance(event, LoadWindow):
            self._windows.append(event)
        elif isinstance(event, LoadStopped):
            self._open += event.open
        else:
            self.context.journal.emit(event)

    def _flush(self) -> None:
        windows, self._windows = self._windows, []
        if windows:
            for event in fold_windows(windows):
                # Of many processes, but of the same time: nothing is coarser for that.
                self.context.journal.emit(event.model_copy(update={"windows": 1}))
