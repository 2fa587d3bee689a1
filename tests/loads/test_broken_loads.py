"""Loads that break: what they had under way is counted, and the verdict says so."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from broken_loads import Raises, Stays
from load_bench import WHOLE, Bench, until
from soakd_run import Soakd, wait

from supervisor.broker.api import ApiError
from supervisor.journal import events as ev
from supervisor.loads.crew import run_load
from supervisor.loads.pace import Paced
from supervisor.loads.unworkable import ExistsError, unworkable
from supervisor.supervision import Supervisor

HERE = Path(__file__).with_name("broken_loads.py")


def check_sums(bench: Bench) -> None:
    """Whatever was due was begun or dropped, and whatever was begun has an outcome."""
    counts, dropped = bench.counts, sum(window.dropped for window in bench.windows)
    ended = sum(counts.get(outcome, 0) for outcome in ("ok", "failed", "indeterminate"))
    assert counts["started"] == ended
    assert counts["scheduled"] == counts["started"] + dropped


@pytest.mark.parametrize("pace", [{"rate": "100/s"}, {"workers": 8}], ids=["open", "closed"])
async def test_a_load_that_raises_loses_nothing_it_had_under_way(bench: Bench, pace: dict[str, Any]) -> None:
    context, given_up = bench.context("load"), list[str]()
    load: Paced = Raises.model_validate({"raises": 30, **pace})
    with anyio.fail_after(WHOLE):
        async with anyio.create_task_group() as group:
            supervisor = Supervisor(group, bench.journal, given_up.append)
            supervisor.keep("load load", lambda: run_load(load, context))
            await until(lambda: any(isinstance(event, ev.TaskCrashed) for event in bench.events))
            broken = dict(bench.counts)
            await bench.until_counted(context, "ok", int(broken.get("ok", 0)) + 5)
            context.stop.set()
    await bench.settle()
    assert broken["started"] == broken.get("ok", 0) + broken["indeterminate"], "counted as soon as it broke"
    assert broken["indeterminate"] == broken["load crashed"] >= 2
    assert bench.counts["load crashed"] == broken["load crashed"]
    check_sums(bench)
    dropped = sum(window.dropped for window in bench.windows)
    assert dropped >= 20 if "rate" in pace else not dropped, "what was due while it was away"
    (told,) = [event for event in bench.events if isinstance(event, ev.LoadBroken)]
    assert (told.how, told.error) == ("raised", "LookupError: no such thing")
    assert any(sample.detail == "LookupError: no such thing" for sample in bench.samples)


@pytest.mark.parametrize(
    ("error", "worked", "why"),
    [
        (ValueError("x"), False, "ValueError: x: correct its settings"),
        (ValueError("x"), True, ""),
        (OSError("x"), False, ""),
        (
            ApiError("STREAM.CREATE.S", {"code": 500, "err_code": 10074}),
            False,
            "refuses what its settings ask for",
        ),
        (ApiError("STREAM.CREATE.S", {"code": 400, "err_code": 10065}), False, "refuses what its settings"),
        (ApiError("STREAM.CREATE.S", {"code": 400, "err_code": 10005}), False, ""),
        (ApiError("STREAM.CREATE.S", {"code": 503, "err_code": 10008}), False, ""),
        (ExistsError("the stream S exists already"), True, "exists already"),
    ],
)
def test_what_will_be_no_better_the_next_time(error: Exception, worked: bool, why: str) -> None:
    found = unworkable(ExceptionGroup("unhandled errors", [KeyError("y"), error]), worked=worked)
    assert (why in found) if why else not found


async def test_a_load_that_is_cut_short_loses_nothing_either(bench: Bench) -> None:
    context = bench.context("load")
    load: Paced = Stays.model_validate({"stays": 3, "workers": 2})
    async with anyio.create_task_group() as group:
        group.start_soon(run_load, load, context)
        await bench.until_counted(context, "ok", 4)
        context.stop.set()
        group.cancel_scope.cancel()
    await bench.settle()
    check_sums(bench)
    assert 3 <= bench.counts["cut short"] == bench.counts["indeterminate"] <= 5
    assert [event.how for event in bench.events if isinstance(event, ev.LoadBroken)] == ["cut short"]


def test_a_run_whose_loads_break_does_not_pass(soakd: Soakd) -> None:
    own = {"python": f"{HERE}:Raises", "workers": 4}
    soakd.start(
        {
            "soak": "small",
            "grace": "3s",
            "loads": {
                "raises": {**own, "raises": 10},
                "stays": {**own, "python": f"{HERE}:Stays", "stays": 3},
                "wrong": {**own, "python": f"{HERE}:Wrong", "wrong": "b", "processes": 2},
                "well": {**own, "raises": 0},
            },
            "thresholds": ["load well: ok operations > 0"],
        }
    )
    wait("loads that broke", lambda: soakd.soaking() and len(soakd.events(ev.LoadBroken)) == 2, 60)
    soakd.process.terminate()  # type: ignore[union-attr]
    assert soakd.end(60) == 3, soakd.output
    verdict = soakd.verdict()
    assert verdict["verdict"] == "inconclusive"
    reasons = "\n".join(str(reason) for reason in verdict["reasons"])
    assert "load raises broke once" in reasons
    assert "LookupError: no such thing" in reasons
    assert "load stays broke once" in reasons
    assert "it had not returned when its time was over" in reasons
    assert "load well" not in reasons
    assert (
        "load wrong cannot work by its settings, and was not tried again: ValueError: there is no mode b"
        in reasons
    )
    for load in verdict["loads"].values():
        assert load["started"] == load["ok"] + load["failed"] + load["indeterminate"]
    assert verdict["loads"]["raises"]["errors"]["load crashed"] >= 1
    assert verdict["loads"]["stays"]["errors"]["cut short"] >= 3


def test_processes_of_a_run_are_replaced_and_end_with_it(soakd: Soakd) -> None:
    """The class is from a file of the user's, which the processes take in themselves."""
    own = {"python": f"{HERE}:Raises", "raises": 0, "workers": 4, "processes": 2}
    often = "load own: failed <= 1000 in every 5s"  # so that windows are short
    soakd.start({"soak": "small", "loads": {"own": own}, "thresholds": [often]})
    wait("the soak", lambda: soakd.soaking() and len(workers(soakd)) == 2, 60)
    wait("operations", lambda: soakd.events(ev.LoadWindow))
    os.kill(workers(soakd)[0], signal.SIGKILL)
    wait("what it had under way", lambda: died(soakd))
    assert died(soakd) <= 2  # one of its two workers may have been between two operations
    assert [event.how for event in soakd.events(ev.LoadBroken)] == ["killed"]  # type: ignore[attr-defined]
    wait("another one", lambda: len(workers(soakd)) == 2)
    daemon = soakd.daemon()
    soakd.process.kill()  # type: ignore[union-attr]  # the guardian, which would end them
    os.kill(daemon, signal.SIGKILL)
    wait("the end of all", lambda: not workers(soakd))


def died(run: Soakd) -> int:
    windows = [event for event in run.events(ev.LoadWindow) if isinstance(event, ev.LoadWindow)]
    return sum(one.errors.get("process died", 0) for window in windows for one in window.slices)


def workers(run: Soakd) -> list[int]:
    """Return the processes that share a load of a run."""
    found = []
    for pid in run.units():
        with suppress(OSError):
            if b"supervisor.loads.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found
