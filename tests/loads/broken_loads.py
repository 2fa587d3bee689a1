"""Loads of somebody's own that go wrong, for `python: broken_loads.py:...`."""

from __future__ import annotations

from typing import ClassVar

import anyio

from supervisor.journal.events import LoadStopped
from supervisor.loads.base import LoadContext
from supervisor.loads.executor import Executor
from supervisor.loads.pace import Paced


class Raises(Paced):
    """Operations that take long, the n-th of which raises, once in a run."""

    key: ClassVar[str] = "raises"
    shareable: ClassVar[bool] = True
    raises: int

    async def run(self, context: LoadContext) -> None:
        begun, broken = 0, context.directory / f"{context.name}.broken"

        async def operate() -> None:
            nonlocal begun
            begun += 1
            if begun == self.raises and not await anyio.Path(broken).exists():
                await anyio.Path(broken).touch()
                raise LookupError("no such thing")
            await anyio.sleep(0.2)

        cut_off = await Executor(self, context, operate).run()
        context.recorder.flush()
        context.journal.emit(LoadStopped(load=context.name, open=cut_off))


class Wrong(Raises):
    """One whose settings cannot work, which only shows when it begins."""

    key: ClassVar[str] = "wrong"
    wrong: str
    raises: int = 0

    async def run(self, _: LoadContext) -> None:
        async with anyio.create_task_group():
            raise ValueError(f"there is no mode {self.wrong}")


class Stays(Raises):
    """One that goes on though it is told to stop."""

    key: ClassVar[str] = "stays"
    stays: int
    raises: int = 0

    async def run(self, context: LoadContext) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(super().run, context)
            context.recorder.scheduled(self.stays)
            context.recorder.started(self.stays)  # and what is counted by hand never ends
            await anyio.sleep_forever()
