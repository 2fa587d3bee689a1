"""A load of one's own, for `config/own-load.yaml`: lines sent to a TCP service that answers each with itself.

A load extends `supervisor.loads.base.Load`, or `Paced`, which brings `rate`, `workers` and the other keys that say when operations come.
Its fields are its keys in the soak file. `run` uses the system until `context.stop` is set; `Executor` does one operation whenever one
is due and counts how it went. Counters of its own are named in `counters` and go to
`context.recorder.count`.
"""

from __future__ import annotations

from typing import ClassVar

import anyio
from pydantic import Field

from supervisor.journal.events import LoadStopped
from supervisor.loads.base import LoadContext
from supervisor.loads.executor import TIMEOUT, Executor, Failure
from supervisor.loads.pace import Paced
from supervisor.values import Duration


class Echo(Paced):
    """Sends a line to a TCP service and expects it back."""

    key: ClassVar[str] = "echo"
    counters: ClassVar[tuple[str, ...]] = ("mixed_up",)

    echo: int = Field(ge=1, le=65535, description="The port on this machine.")
    timeout: Duration = Field(2.0, gt=0, description="How long an answer may take.")

    async def run(self, context: LoadContext) -> None:
        """Send lines until the load is to stop."""
        asked = 0

        async def operate() -> Failure | None:
            nonlocal asked
            asked += 1
            line = b"%d\n" % asked
            try:
                with anyio.fail_after(self.timeout):
                    async with await anyio.connect_tcp("127.0.0.1", self.echo) as stream:
                        await stream.send(line)
                        answer = await stream.receive()
            except TimeoutError:
                return TIMEOUT  # indeterminate: it may have been heard
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
                return Failure("no answer", str(error))
            if answer != line:
                context.recorder.count("mixed_up")
                return Failure("wrong answer", f"sent {line!r}, was answered {answer!r}")
            return None

        context.recorder.count(
            "mixed_up", 0
        )  # a threshold on what never happened needs to see that somebody looked
        cut_off = await Executor(self, context, operate).run()
        context.recorder.flush()
        context.journal.emit(LoadStopped(load=context.name, open=cut_off))
