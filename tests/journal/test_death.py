"""SIGKILL at any moment: what was durable is there, what is torn is told, and the next writer goes on where it ended."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from supervisor.journal.events import FaultIntent, JournalTrouble
from supervisor.journal.replay import replay
from supervisor.journal.segments import segments

DEATHS = 20
LONG = 60
"""Records that every other one has written at its death: enough for a segment and a part of the next."""


def test_nothing_durable_is_lost_when_the_writer_is_killed_again_and_again(tmp_path: Path) -> None:
    run_dir, rng = tmp_path / "run", random.Random(4)  # noqa: S311  # moments, not secrets
    durable: dict[int, int] = {}
    victim = Path(__file__).with_name("victim.py")
    with subprocess.Popen(
        [sys.executable, victim], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        for life in range(DEATHS):
            print(run_dir, file=zygote.stdin, flush=True)
            pid = int(zygote.stdout.readline().removeprefix("pid "))
            for _ in range(LONG if life % 2 else 1):
                durable[int(zygote.stdout.readline())] = pid
            time.sleep(rng.uniform(0, 0.05))  # the moment, not a wait for anything
            os.kill(pid, signal.SIGKILL)
            while (line := zygote.stdout.readline()) != "dead\n":
                durable[int(line)] = pid
        zygote.stdin.close()
    assert len(durable) > 10 * DEATHS
    assert len(segments(run_dir)) > DEATHS
    check(run_dir, durable)


def check(run_dir: Path, durable: dict[int, int]) -> None:
    found: dict[int, FaultIntent] = {}
    last = 0
    for record in replay(run_dir):
        if isinstance(record.event, JournalTrouble):
            assert "torn" in record.event.detail, record
            continue
        assert record.sequence > last
        last = record.sequence
        if isinstance(record.event, FaultIntent):
            found[record.sequence] = record.event
    assert {sequence: found[sequence].undo["pid"] for sequence in durable} == durable
    assert max(durable) <= last
