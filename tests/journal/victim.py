"""A program to be killed: for each line on its standard input a fork of it writes to a journal until it dies.

It prints `pid N`, then the number of every record of which the journal said that it is durable.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import structlog

from supervisor.journal.events import FaultIntent, LoadWindow, Slice
from supervisor.journal.writer import open_journal

WINDOW = LoadWindow(load="l", start=1.0, end=2.0, slices=(Slice(ok=9, response=(0.5, 0.1, *range(1, 90))),))


async def write_for_ever(run_dir: Path) -> None:
    async with open_journal(run_dir, segment=30_000, budget=20_000) as journal:
        n = 0
        while True:
            for _ in range(n % 4):
                journal.emit(WINDOW)
            n += 1
            intent = FaultIntent(episode=f"f#{n}", fault="f", type="t", n=n, undo={"pid": os.getpid()})
            record = await journal.commit(intent)
            os.write(1, b"%d\n" % record.sequence)


def main() -> None:
    # What the journal warns of, such as a budget that is too small for a moment, must not stand among the numbers.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for line in sys.stdin:
        if pid := os.fork():
            os.waitpid(pid, 0)
            os.write(1, b"dead\n")
        else:
            os.write(1, b"pid %d\n" % os.getpid())
            anyio.run(write_for_ever, Path(line.strip()), backend_options={"use_uvloop": True})


if __name__ == "__main__":
    main()
