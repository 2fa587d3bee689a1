from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_story import Story, long_night, patient, piece
from rich.console import Console
from rich.markdown import Markdown

from supervisor.journal.events import (
    EndReason,
    EpisodeClosed,
    Evidence,
    FaultFailed,
    FaultUndone,
    InvariantViolated,
    Reading,
    Record,
    Sample,
    UndoFailed,
)
from supervisor.judge import document, evidence, junit, summary
from supervisor.judge.markdown import ROWS, code, table, text
from supervisor.judge.report import FILES, render, write_reports
from supervisor.judge.verdict import Judgement, judge

GOLDEN = Path(__file__).with_name("golden")


def judged(story: Story) -> Judgement:
    return judge(story.records)


@pytest.mark.parametrize("name", FILES)
def test_one_full_story_reads_as_it_should(name: str) -> None:
    """Regenerate with `python tests/judge/judge_story.py`, and read the difference."""
    texts = render(Path("runs/provisioning/latest"), judged(long_night()))

    assert texts[name] == (GOLDEN / name).read_text()


def test_a_violation_is_told_with_all_that_is_known_of_it() -> None:
    data = {"sequence": 7, "replicas": {"n1": {"holds": "no", "state": {}}}, "logs": {"n1": "<lost>.n1.log"}}
    story = Story().begin(loads=("rpc",)).operate(ok=1)
    for n in range(7):
        story.tell(
            InvariantViolated(invariant="no loss", subject="s", detail=f"message {n} is gone", data=data)
        )

    texts = render(Path("run"), judged(story.end()))

    assert (
        "**no loss**, s: message 0 is gone\n\n- sequence: 7\n- replicas n1: holds no\n" in texts["summary.md"]
    )
    assert "<li>logs n1: &lt;lost&gt;.n1.log</li>" in texts["report.html"]
    assert "message 4 is gone" in texts["summary.md"]
    assert "… and 2 more, in `journal-*.jsonl`." in texts["summary.md"]


def test_a_pass_says_what_it_rests_on() -> None:
    story = (
        Story().begin(loads=("rpc",), faults=("a",), thresholds=("ok == 100%",)).operate(ok=1500).episode("a")
    )

    text = summary.render(judged(story.end()))

    assert text.startswith("# demo: PASS\n")
    assert "Nothing speaks against it: 1 threshold kept, 1 episode recovered, 1,500 operations ok." in text
    assert "Crashes" not in text
    assert "First failures" not in text


def test_the_summary_tells_what_to_run_next() -> None:
    story = Story().begin().intend().tell(
        UndoFailed(episode="restart-nats#1", attempt=1, error="e", broken="start nats1 by hand")
    )  # fmt: skip

    text = summary.render(judged(story.crash()), "runs/a soak/x")

    assert "soakd recover 'runs/a soak/x'" in text
    assert "soakd crashes 'runs/a soak/x'" in text
    assert "less 'runs/a soak/x/worker.crash.1.log'" in text
    assert "- restart-nats#1: on nats1: undo failed: start nats1 by hand" in text


def test_tables_of_a_long_run_are_cut_short_and_say_so() -> None:
    units = tuple(f"worker-{n}" for n in range(100))
    story = Story().begin(units=units, loads=tuple(f"load-{n}" for n in range(100)))
    for n in range(1, 3001):
        story.wait(30).episode(n=n, failing=(), recovered=n % 3 != 0)
        story.crash(units[n % 100], f"Error {n}")
        story.operate(f"load-{n % 100}", ok=1)

    judgement = judged(story.end())
    texts = render(Path(), judgement)

    assert f"… and {3000 - ROWS:,} more episodes." in texts["summary.md"]
    assert "… and 80 more units." in texts["summary.md"]
    assert "… and 80 more loads." in texts["summary.md"]
    assert texts["summary.md"].count("\n") < 250
    assert "episodes_not_listed,2000\n" in texts["evidence.csv"]
    assert json.loads(texts["verdict.json"])["episodes_not_listed"] == 2000


# --- junit.xml --------------------------------------------------------------------------------------------------------


def xml(text: str) -> ET.Element:
    return ET.fromstring(text.encode())  # noqa: S314  # it is our own


def cases(story: Story) -> dict[str, str]:
    """Return the outcome of each case, as a CI system would see it."""
    root = xml(junit.render(judged(story)))
    found = {}
    for case in root.iter("testcase"):
        name, (tag, *more) = str(case.get("name")), [child.tag for child in case] or ["passed"]
        assert not more
        assert name not in found
        found[name] = tag
    for element in (root, *root):
        for tag, name in (
            ("testcase", "tests"),
            ("failure", "failures"),
            ("error", "errors"),
            ("skipped", "skipped"),
        ):
            assert element.get(name) == str(len(list(element.iter(tag))))
    return found


def test_every_threshold_invariant_and_episode_is_a_case() -> None:
    story = Story().begin(
        loads=("rpc",), faults=("a",), thresholds=("ok >= 95%", "crashes == 0", "lost == 0", "dropped == 0")
    )
    story.operate(ok=10, dropped=1, scheduled=11).episode("a").episode("a", 2, recovered=False)
    story.intend("a", 3).tell(FaultFailed(episode="a#3", error="no docker"), FaultUndone(episode="a#3"))
    story.tell(EpisodeClosed(episode="a#3", recovered=True, recovery=0)).episode("a", 4, recovered=None)
    story.intend("a", 5).tell(UndoFailed(episode="a#5", attempt=1, error="e", broken="b")).intend("a", 6)
    story.tell(InvariantViolated(invariant="no loss", subject="s", detail="d"))

    assert cases(story.end()) == {
        "verdict": "failure",
        "ok >= 95%": "failure",
        "crashes == 0": "error",
        "lost == 0": "error",
        "dropped == 0": "failure",
        "no loss": "failure",
        "a#1": "passed",
        "a#2": "failure",
        "a#3": "skipped",
        "a#4": "skipped",
        "a#5": "failure",
        "a#6": "error",
    }


def test_an_inconclusive_run_is_no_green_build() -> None:
    assert cases(Story().begin(loads=("rpc",)).operate()) == {"verdict": "error"}


def test_a_pass_is_all_green() -> None:
    story = Story().begin(loads=("rpc",), thresholds=("ok >= 95%",)).operate().episode().end()

    assert cases(story) == {"verdict": "passed", "ok >= 95%": "passed", "restart-nats#1": "passed"}


# --- evidence.csv -----------------------------------------------------------------------------------------------------


def test_evidence_tells_before_during_and_after() -> None:
    story = Story().begin(faults=("a",)).intend("a", units=("n1", "n2"))
    for when, value in (("before", 200.0), ("during", 503.0), ("recovered", 200.0)):
        reading = Reading(probe='http "x", y', ok=True, value=value)
        story.tell(Evidence.model_validate({"episode": "a#1", "when": when, "readings": (reading,)}))
    story.tell(
        Evidence(episode="a#1", when="during", readings=(Reading(probe="p", ok=False, detail="refused"),))
    )

    lines = dict(csv.reader(io.StringIO(evidence.render(judged(story.end())))))

    assert lines["a#1.targets"] == "n1 n2"
    assert [lines[f'a#1.{when}.http "x", y'] for when in ("before", "during", "recovered")] == [
        "200",
        "503",
        "200",
    ]
    assert (lines["a#1.during.p"], lines["a#1.during.p.holds"]) == ("refused", "false")
    assert lines["a#1.recovery_seconds"] == ""
    assert lines["a#1.outcome"] == "never closed"
    assert lines["verdict"] == "inconclusive"


# --- verdict.json -----------------------------------------------------------------------------------------------------


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def test_verdict_json_is_strict_json_with_all_the_numbers() -> None:
    found = json.loads(document.render(judged(long_night())), parse_constant=refuse)

    assert found["schema"] == 1
    assert found["verdict"] == "fail"
    assert found["loads"]["rpc"]["unexplained_failures"] == 2
    assert found["loads"]["rpc"]["failures_by_stage"] == {"direct": 6, "during": 3, "recovering": 1}
    assert found["units"]["dispatcher"]["crashes"] == 2
    assert found["faults"]["restart-nats"]["recovery_seconds"]["max"] == 3.25
    assert [one["outcome"] for one in found["episodes"]] == ["recovered", "recovered", "not recovered"]
    assert found["thresholds"][3] == {
        "threshold": "recovery < 30s",
        "verdict": "fail",
        "seen": None,
        "shown": "no recovery",
        "why": "seen no recovery (rollout#1 did not recover in its time)",
    }


# --- whatever the journal holds ---------------------------------------------------------------------------------------

ANYTHING = st.text(max_size=60) | st.sampled_from(
    [
        "a | b",
        "`x`",
        "``",
        "<script>",
        "\x00\x1b[31m",
        "\ud800",
        "a\r\nb",
        "]]>",
        "# h",
        "\\",
        '"',
        "*_x_*",
        "=1+1",
    ]
)


@patient
@given(words=st.lists(ANYTHING, min_size=6, max_size=6))
def test_no_text_breaks_a_report(words: list[str]) -> None:
    one, two, three, four, five, six = words
    story = Story().begin(soak=one, units=(two,), thresholds=(three,), facts={four: five})
    story.crash(two, three, file=f"{four}.log").episode(five, failing=(one, two), truncated=three)
    story.tell(
        Evidence(episode=f"{five}#1", when="during", readings=(Reading(probe=six, ok=False, value=one),))
    )
    story.window(
        four,
        piece(failed=1, error=five, first_failure=story.mono),
        samples=(Sample(at=story.mono, name=six, outcome="failed", error=one, detail=two),),
    )

    texts = render(Path("run"), judged(story.end(EndReason.SIGNAL, six)))

    xml(texts["junit.xml"])
    json.loads(texts["verdict.json"], parse_constant=refuse)
    for line in csv.reader(io.StringIO(texts["evidence.csv"], newline="")):
        assert len(line) == 2
    above = ""
    for line in texts["summary.md"].split("\n"):
        assert not above.startswith("|") or not line.startswith("|") or pipes(line) == pipes(above)
        above = line
    console = Console(file=io.StringIO(), width=100)
    console.print(Markdown(texts["summary.md"]))


@patient
@given(st.text(max_size=80))
def test_a_cell_stays_one_cell(value: str) -> None:
    (_, _, row, *_) = table(("a", "b"), [(value, "x")], 1, "rows")

    assert row.endswith(" | x |")
    assert pipes(row) == 3
    assert "\n" not in row


def pipes(line: str) -> int:
    """Count the pipes that part cells: those with no or an even number of backslashes before them."""
    before = [line[:at] for at, char in enumerate(line) if char == "|"]
    return sum((len(text) - len(text.rstrip("\\"))) % 2 == 0 for text in before)


@pytest.mark.parametrize(
    ("value", "expected"), [("a", "`a`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("a\nb", "`a b`")]
)
def test_code_cannot_be_ended_by_what_is_in_it(value: str, expected: str) -> None:
    assert code(value) == expected


def test_long_texts_are_cut() -> None:
    assert text("x" * 200, 10) == "x" * 9 + "…"


@pytest.mark.parametrize("clock", [0.0, -1e18, 1e18, 1.8e12, float("inf"), float("nan")])
def test_a_load_with_a_clock_of_its_own_breaks_no_report(clock: float) -> None:
    sample = Sample(at=clock, outcome="failed", error="e", took=1.0)
    story = Story().begin(loads=("own",)).window(
        "own", piece(failed=1, first_failure=clock, first_ok=clock), samples=(sample,)
    )  # fmt: skip

    assert "e |" in render(Path(), judged(story.end()))["summary.md"]


# --- files ------------------------------------------------------------------------------------------------------------


def test_writes_all_reports_and_replaces_older_ones(tmp_path: Path) -> None:
    write_reports(tmp_path, judged(Story().begin(loads=("rpc",)).operate()))
    write_reports(tmp_path, judged(Story().begin(loads=("rpc",)).operate().end()))

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] == "pass"


def test_texts_that_are_no_unicode_are_written_all_the_same(tmp_path: Path) -> None:
    write_reports(tmp_path, judged(Story().begin(soak="\ud800").crash(signature="\udcff").end()))

    assert "\\udcff" in (tmp_path / "summary.md").read_text()
    xml((tmp_path / "junit.xml").read_text())


def test_a_report_that_cannot_be_written_leaves_the_older_one(tmp_path: Path) -> None:
    write_reports(tmp_path, judged(Story().begin(loads=("rpc",)).operate().end()))
    (tmp_path / ".summary.md.part").mkdir()

    with pytest.raises(OSError, match="summary"):
        write_reports(tmp_path, judged(Story().begin()))

    assert (tmp_path / "summary.md").read_text().startswith("# demo: PASS")


def test_a_report_says_the_same_however_often_it_is_made() -> None:
    records: list[Record] = long_night().records

    assert render(Path("x"), judge(records)) == render(Path("x"), judge(records))
