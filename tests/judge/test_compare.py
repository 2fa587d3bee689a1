"""Runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from judge_story import Story, piece
from test_page import Page

from supervisor.judge.beside import as_json, as_page
from supervisor.judge.compare import Row, Run, names, rows
from supervisor.judge.verdict import judge

SOAK = "soak: x\nloads:\n  rpc:\n    request: echo\n    client: CLIENT\n"


def run(client: str, failed: int, *, counters: dict[str, float] | None = None) -> Run:
    story = Story().begin(
        loads=("rpc",), faults=("rollout",), units=("nats1",), thresholds=("failures == 0",)
    )
    story.wait(9).episode("rollout")
    story.wait(10).window(
        "rpc", piece("rollout#1:during", ok=100 - failed, failed=failed), counters=counters or {}
    )
    return Run(Path(client), judge(story.end().records), SOAK.replace("CLIENT", client))


def told(*runs: Run) -> dict[tuple[str, str], Row]:
    return {(row.section, row.what): row for row in rows(runs)}


def test_what_tells_the_runs_apart_comes_with_what_it_made_of_them() -> None:
    table = told(run("default", 3, counters={"attempts": 120}), run("make_before_break", 0))

    assert table["run", "verdict"].values == ("FAIL", "PASS")
    assert table["soak file", "only here"].values == ("client: default", "client: make_before_break")
    assert table["thresholds", "failures == 0"].values == ("fail: 3", "pass: 0")
    assert table["load rpc", "failures direct / during / recovering"].values == ("0 / 3 / 0", "0 / 0 / 0")
    assert table["load rpc", "error timeout"].values == ("3", "0")
    assert table["load rpc", "attempts"].values == ("120", "-")
    assert table["fault rollout", "worst recovery"].values == ("2s", "2s")
    assert not table["fault rollout", "worst recovery"].differs
    assert table["load rpc", "failures"].differs


def test_a_load_that_one_of_them_does_not_have_is_a_dash() -> None:
    other = Run(Path("b"), judge(Story().begin(loads=("js",)).wait(9).operate("js").end().records), "")

    table = told(run("default", 0), other, run("default", 1))

    assert table["load rpc", "operations"].values == ("100", "-", "100")
    assert table["load js", "ok"].values == ("-", "100%", "-")
    assert table["fault rollout", "episodes, recovered"].values == ("1, 1", "-", "1, 1")


@pytest.mark.parametrize(
    ("directories", "expected"),
    [
        (["runs/x/1", "runs/x/2"], ["1", "2"]),
        (["/a/default/runs/1", "/a/quick/runs/1"], ["default/runs/1", "quick/runs/1"]),
        (["/a/1", "/a/../a/1"], ["/a/1", "/a/../a/1"]),
    ],
)
def test_a_heading_tells_the_runs_apart(directories: list[str], expected: list[str]) -> None:
    judgement = judge([])
    assert names([Run(Path(one), judgement, "") for one in directories]) == expected


def test_as_a_page_it_has_the_same_table_and_the_course_of_each() -> None:
    runs = [run("default", 3), run("<b>make_before_break", 0)]

    page = Page(as_page(runs))

    told = [" ".join(text.split()) for text in page.text if text.strip()]
    for row in rows(runs):
        at = told.index(row.what)
        assert any(told[n + 1 : n + 3] == list(row.values) for n in range(at, len(told))), row
    assert page.tags.count("svg") == 2
    assert not {"script", "b", "img"} & set(page.tags)


def test_as_json_it_has_the_table_and_all_numbers() -> None:
    runs = [run("default", 3), run("make_before_break", 0)]

    told = json.loads(as_json(runs))

    assert [(row["section"], row["what"], tuple(row["values"])) for row in told["rows"]] == list(
        map(tuple, rows(runs))
    )
    assert [one["name"] for one in told["runs"]] == ["default", "make_before_break"]
    assert [one["loads"]["rpc"]["failed"] for one in told["runs"]] == [3, 0]
    assert [one["verdict"] for one in told["runs"]] == ["fail", "pass"]
