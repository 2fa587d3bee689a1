from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import anyio
import pytest
from probe_bench import PATIENCE, Watch, look, probe
from pydantic import ValidationError

from supervisor.probes.base import View

TALK = """
echo 'heartbeat took 7 s'; echo 'slow consumer'; echo 'heartbeat took 3.5 s'; echo 'slow consumer'; exec sleep 1000
"""


async def spoken(view: View, unit: str = "n1") -> None:
    with anyio.fail_after(PATIENCE):
        while b"3.5" not in await view.fleet.logs(unit):  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.01)


async def test_a_pattern_is_counted(watching: Watch) -> None:
    async with watching(n1=TALK) as view:
        await spoken(view)
        reading = await look(view, log={"unit": "n1", "pattern": "slow"})
        assert (reading.ok, reading.value, reading.detail) == (True, 2, "found in 2 lines")
        assert reading.probe == "log n1 /slow/ count >= 1 (last 1m)"
        assert not (await look(view, log={"unit": "n1", "pattern": "slow", "count": 0})).ok
        assert not (await look(view, log={"unit": "n1", "pattern": "fast"})).ok
        assert (await look(view, log={"unit": "n1", "pattern": "fast", "count": "== 0"})).ok


async def test_the_last_number_is_taken(watching: Watch) -> None:
    async with watching(n1=TALK) as view:
        await spoken(view)
        entry = {"unit": "n1", "pattern": r"took (\S+) s", "value": "< 5"}
        reading = await look(view, log=entry)
        assert (reading.ok, float(reading.value or 0), reading.detail) == (True, 3.5, "the last value is 3.5")
        assert not (await look(view, log={**entry, "value": "< 3"})).ok
        reading = await look(view, log={**entry, "pattern": r"rested (\d+) s"})
        assert (reading.ok, reading.detail) == (False, "the pattern was not found, so there is no value")


async def test_lines_of_several_units_count_together(watching: Watch) -> None:
    async with watching(n1=TALK, n2=TALK) as view:
        await spoken(view, "n1")
        await spoken(view, "n2")
        assert (await look(view, log={"unit": ["n1", "n2"], "pattern": "slow"})).value == 4


async def test_only_what_was_written_since_then_counts(watching: Watch) -> None:
    async with watching(n1=TALK) as view:
        before = time.time() - 60
        await spoken(view)
        entry = {"unit": "n1", "pattern": "slow", "since": "episode"}
        assert (await look(replace(view, since=before), log=entry)).value == 2
        assert (await look(replace(view, since=time.time() + 60), log=entry)).value == 0
        reading = await look(view, log=entry)
        assert (reading.ok, reading.value) == (False, None)
        assert "means nothing outside an episode" in reading.detail


async def test_an_unknown_unit_is_never_ok(view: View) -> None:
    reading = await look(view, log={"unit": "nats9", "pattern": "x", "count": 0})
    assert (reading.ok, "nats9" in reading.detail) == (False, True)


@pytest.mark.parametrize(
    ("entry", "where", "what"),
    [
        ({"unit": "a", "pattern": "("}, "log.pattern", "valid regular expression"),
        ({"unit": "a", "pattern": "x", "value": "< 5"}, "log", "value needs one group"),
        ({"unit": "a", "pattern": "(x)", "value": "< 5", "count": 1}, "log", "write two probes"),
        ({"pattern": "x"}, "log.unit", "Field required"),
    ],
)
def test_bad_entries(entry: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        probe(log=entry)
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == where
    assert what in error["msg"]


def test_what_since_may_be() -> None:
    with pytest.raises(ValidationError, match="log"):
        probe(log={"unit": "a", "pattern": "x", "since": "yesterday"})
