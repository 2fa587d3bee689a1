from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_story import patient
from pydantic import BaseModel, TypeAdapter, ValidationError

from supervisor.judge.grammar import LONGEST
from supervisor.judge.limits import OPERATORS, ThresholdError
from supervisor.judge.metrics import METRICS, Subject, Unit
from supervisor.judge.scopes import Scope, Where
from supervisor.judge.thresholds import Threshold
from supervisor.values import parse_duration, parse_rate, parse_share


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("load rpc: ok >= 95%", ("ok", ">=", 0.95, Unit.SHARE, "rpc", None)),
        ("ok>=99.9%", ("ok", ">=", 999 / 1000, Unit.SHARE, None, None)),
        ("unexplained failures == 0", ("unexplained failures", "==", 0, Unit.COUNT, None, None)),
        ("unexplained_failures == 0", ("unexplained failures", "==", 0, Unit.COUNT, None, None)),
        ("failures < 1%", ("failures", "<", 0.01, Unit.SHARE, None, None)),
        ("failures < 1", ("failures", "<", 1, Unit.COUNT, None, None)),
        ("load rpc: p99 < 250ms", ("p99", "<", 0.25, Unit.DURATION, "rpc", None)),
        ("load rpc: service p999 <= 1m 30s", ("service p999", "<=", 90, Unit.DURATION, "rpc", None)),
        ("load rpc: max < 0", ("max", "<", 0, Unit.DURATION, "rpc", None)),
        ("load load: ok > 1%", ("ok", ">", 0.01, Unit.SHARE, "load", None)),
        ("crashes <= 5", ("crashes", "<=", 5, Unit.COUNT, None, None)),
        ("crashes of compose/worker-2 <= 5", ("crashes", "<=", 5, Unit.COUNT, None, "compose/worker-2")),
        ("unexplained crashes == 0", ("unexplained crashes", "==", 0, Unit.COUNT, None, None)),
        ("given up == 0", ("given_up", "==", 0, Unit.COUNT, None, None)),
        ("recovery of rollout < 30s", ("recovery", "<", 30, Unit.DURATION, None, "rollout")),
        ("episodes >= 3", ("episodes", ">=", 3, Unit.COUNT, None, None)),
        ("load events: lost == 0", ("lost", "==", 0, Unit.COUNT, "events", None)),
        ("tests skipped <= 1.5", ("tests skipped", "<=", 1.5, Unit.COUNT, None, None)),
        ("load own: counter odd_ones < 3", ("counter odd_ones", "<", 3, Unit.COUNT, "own", None)),
    ],
)
def test_reads(text: str, expected: tuple[object, ...]) -> None:
    one = Threshold.parse(text)

    assert (one.metric.name, one.op, one.limit.value, one.unit, one.load, one.of) == expected
    assert str(one) == text


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("load rpc: okk >= 95%", 11, "there is no metric 'okk', did you mean ok?"),
        ("unexplaned failures == 0", 1, "did you mean unexplained failures?"),
        ("parrots == 0", 1, "there is no metric 'parrots', expected one of ok, failures, "),
        (
            "load rpc ok >= 95%",
            10,
            "expected ':' after the name of the load, as in 'load rpc: ok >= 95%', found ok",
        ),
        ("load : ok >= 95%", 6, "expected the name of a load after 'load', found :"),
        ("load", 5, "expected the name of a load after 'load', found the end of the text"),
        ("", 1, "expected a metric (ok, "),
        (">= 5", 1, "found >="),
        ("p99", 4, "expected one of >= > <= < == after p99, found the end of the text"),
        ("p99 = 3s", 5, "found =, did you mean ==?"),
        ("p99 => 3s", 5, "found =>, did you mean >=?"),
        ("p99 <", 6, "expected a value after <: p99 is compared with a duration such as 250ms"),
        ("p99 < 95%", 7, "p99 is compared with a duration such as 250ms, found 95%"),
        ("recovery < 30", 12, "found 30, did you mean 30s?"),
        ("ok >= 95", 7, "ok is compared with a share such as 95%, found 95, did you mean 95%?"),
        ("ok >= 195%", 7, "ok is compared with a share such as 95%, found 195%"),
        (
            "failures < 3s",
            12,
            "failures is compared with a number such as 5 or a share such as 95%, found 3s",
        ),
        ("crashes <= -1", 12, "crashes is compared with a number such as 5, found -1"),
        ("crashes <= 5 or so", 12, "found 5 or so"),
        ("crashes of <= 5", 12, "expected the name of a unit after 'of', found <="),
        ("recovery of < 5s", 13, "expected the name of a fault after 'of', found <"),
        (
            "load rpc: crashes == 0",
            11,
            "crashes is counted for units: leave out 'load rpc:' or write 'crashes of NAME'",
        ),
        ("ok of rpc >= 95%", 4, "ok is taken of loads: write 'load NAME: ok'"),
        ("ok >= 0.95", 7, "found 0.95, did you mean 95%?"),
        ("ok >= 1", 7, "found 1, did you mean 100%?"),
        ("p99 < 100", 7, "found 100, did you mean 100ms?"),
        ("p99 < 0.25", 7, "found 0.25, did you mean 0.25s?"),
        ("FAILURES == 0", 1, "there is no metric 'FAILURES', did you mean failures?"),
        ("ok >= 95% over 1m", 11, "found 'over 1m', did you mean in every 1m?"),
        ("ok >= 95% in any 5m", 11, "found 'in any 5m', did you mean in every 5m?"),
        ("ok >= 95% in every 3s", 20, "expected whole seconds from 5s to 1d, found 3s"),
        ("ok >= 95% in every 10", 20, "expected a duration such as 250ms after 'in every', found 10"),
        (
            "recovery < 30s in every 1m",
            16,
            "recovery is taken of the run as a whole: leave out 'in every 1m'",
        ),
        ("lost during rollout == 0", 6, "lost is counted when a load finds it out: leave out 'during …'"),
        ("failures while rollout == 0", 16, "expected recovering or disturbed after 'while', found rollout"),
        ("failures during == 0", 17, "expected the name of a fault, or episodes, after 'during', found =="),
        ("failures outside episodes", 26, "expected one of >= > <= < == after failures"),
        ("p99 < 2x basline", 7, "found 2x basline, did you mean 2x baseline or baseline - 2%?"),
        ("p99 < baseline + 5%", 18, "expected a duration such as 250ms after 'baseline +', found 5%"),
        ("p99 == baseline", 8, "nothing is ever exactly as in the baseline"),
        ("crashes <= baseline", 12, "crashes is a number, and the baseline is shorter than the run"),
        ("ok rate >= 50", 12, "found 50, did you mean 50/s?"),
        ("counter == 3", 9, "expected the name of a counter after 'counter', found =="),
        ("x" * (LONGEST + 1), LONGEST + 1, "at most 300 characters"),
    ],
)
def test_says_what_is_wrong_and_where(text: str, column: int, message: str) -> None:
    with pytest.raises(ThresholdError) as caught:
        Threshold.parse(text)

    assert str(caught.value).startswith(f"column {column}: ")
    assert message in str(caught.value)
    assert caught.value.position == column - 1
    assert caught.value.text == text


@pytest.mark.parametrize("value", [None, 5, ["ok >= 1%"], {"that": 1}, b"ok > 1%"])
def test_refuses_what_is_no_text(value: object) -> None:
    with pytest.raises(ThresholdError, match='such as "failures == 0"'):
        Threshold.parse(value)


NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,20}", fullmatch=True)
NUMBERS = st.one_of(st.integers(0, 10**9).map(str), st.decimals(0, 10**6, places=3).map(str))
LITERALS = {
    Unit.COUNT: NUMBERS,
    Unit.SHARE: st.decimals(0, 100, places=2).map(lambda number: f"{number}%"),
    Unit.DURATION: st.tuples(NUMBERS, st.sampled_from(["ms", "s", "m", "h", "d"])).map("".join),
    Unit.RATE: st.tuples(st.integers(1, 10**6).map(str), st.sampled_from(["/s", "/m", "/10s"])).map("".join),
}
READ = {Unit.COUNT: float, Unit.SHARE: parse_share, Unit.DURATION: parse_duration, Unit.RATE: parse_rate}
LINKS = {
    Where.DURING: "during",
    Where.OUTSIDE: "outside",
    Where.DISTURBED: "while disturbed by",
    Where.RECOVERING: "while recovering from",
}


@patient
@given(st.data())
def test_what_is_written_is_what_is_read(data: st.DataObject) -> None:
    metric = METRICS[data.draw(st.sampled_from(sorted(METRICS)))]
    unit = data.draw(st.sampled_from(metric.units))
    op = data.draw(st.sampled_from(sorted(OPERATORS)))
    relative = (
        unit is metric.units[-1] and unit is not Unit.COUNT and metric.subject is Subject.LOAD and op != "=="
    )
    factor = data.draw(st.none() | st.integers(0, 99)) if relative else None
    literal = data.draw(LITERALS[unit])
    scope = data.draw(st.none() | st.builds(Scope, st.sampled_from(Where), NAMES)) if metric.scoped else None
    span = data.draw(st.none() | st.integers(5, 86400)) if metric.slides else None
    load = data.draw(st.none() | NAMES) if metric.subject is Subject.LOAD else None
    of = data.draw(st.none() | NAMES) if metric.subject is not Subject.LOAD else None
    space = st.text(" \t", max_size=3)
    parts = [f"load {load}", ":"] if load else []
    parts += [metric.name, f" of {of}"] if of else [metric.name]
    parts += [f" {LINKS[scope.where]} {scope.fault}"] if scope else []
    parts += [op, literal if factor is None else f"{factor}x baseline + {literal}"]
    text = "".join(part + data.draw(space) for part in parts) + (f" in every {span}s" if span else "")

    threshold = Threshold.parse(text)

    assert (threshold.metric, threshold.op, threshold.unit) == (metric, op, unit)
    assert (threshold.load, threshold.of) == (load, of)
    assert (threshold.scope, threshold.span) == (scope, span)
    assert (threshold.limit.value, threshold.limit.factor) == (READ[unit](literal), factor)
    assert Threshold.parse(str(threshold)) == threshold


SOME = [
    "load",
    "of",
    ":",
    "rpc",
    "95%",
    "5",
    "3s",
    "counter",
    "=",
    "!=",
    "during",
    "outside",
    "episodes",
    "while",
    "recovering",
    "from",
    "baseline",
    "2x",
    "50/s",
]
WORDS = st.sampled_from([*METRICS, *OPERATORS, "in every", *SOME])


@patient
@given(st.one_of(st.text(max_size=400), st.lists(WORDS, max_size=8).map(" ".join)))
def test_garbage_is_a_value_error_with_a_place_in_the_text(text: str) -> None:
    parsed, error = None, None
    try:
        parsed = Threshold.parse(text)
    except ThresholdError as refused:
        error = refused

    if error:
        assert 0 <= error.position <= len(text)
    else:
        assert parsed == Threshold.parse(str(parsed))


@patient
@given(st.sampled_from(sorted(OPERATORS)), st.integers(0, 5), st.integers(0, 5))
def test_compares_as_it_reads(op: str, seen: int, value: int) -> None:
    expected = {
        ">=": seen >= value,
        ">": seen > value,
        "<=": seen <= value,
        "<": seen < value,
        "==": seen == value,
    }

    assert Threshold.parse(f"crashes {op} {value}").holds(seen) is expected[op]


class _File(BaseModel):
    thresholds: list[Threshold] = []


def test_is_a_type_for_the_soak_file() -> None:
    file = _File.model_validate({"thresholds": ["load rpc:  ok >= 95%"]})

    assert file.thresholds == [Threshold.parse("load rpc: ok >= 95%")]
    assert file.model_dump(mode="json") == {"thresholds": ["load rpc:  ok >= 95%"]}
    assert [form["type"] for form in TypeAdapter(Threshold).json_schema()["anyOf"]] == ["string", "object"]
    assert _File(thresholds=file.thresholds) == file


def test_an_error_in_the_soak_file_keeps_its_place_and_text() -> None:
    with pytest.raises(ValidationError) as caught:
        _File.model_validate({"thresholds": ["crashes <= 5", "okk >= 95%"]})

    (problem,) = caught.value.errors()
    assert problem["loc"][:2] == ("thresholds", 1)
    assert isinstance(problem["ctx"]["error"], ThresholdError)
    assert problem["ctx"]["error"].position == 0


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("failures during rollout == 0", Scope(Where.DURING, "rollout")),
        ("load rpc: p99 during episodes < 1s", Scope(Where.DURING)),
        ("ok outside episodes >= 99%", Scope(Where.OUTSIDE)),
        ("failures while recovering == 0", Scope(Where.RECOVERING)),
        ("crashes of api while disturbed by rollout <= 5", Scope(Where.DISTURBED, "rollout")),
    ],
)
def test_a_part_of_the_run(text: str, scope: Scope) -> None:
    assert Threshold.parse(text).scope == scope


@pytest.mark.parametrize(
    ("where", "marks", "taken"),
    [
        (Where.DURING, ("a#1:recovering",), True),
        (Where.DURING, ("b#1:during",), False),
        (Where.DURING, (), False),
        (Where.DISTURBED, ("a#1:recovering",), False),
        (Where.DISTURBED, ("a#1:direct", "b#1:recovering"), True),
        (Where.RECOVERING, ("a#1:recovering",), True),
        (Where.OUTSIDE, ("a#1:recovering",), False),
        (Where.OUTSIDE, ("b#1:during",), True),
        (Where.OUTSIDE, (), True),
    ],
)
def test_what_belongs_to_a_part(where: Where, marks: tuple[str, ...], taken: bool) -> None:
    assert Scope(where, "a").takes(marks) is taken


@pytest.mark.parametrize(
    ("span", "step"), [("5s", 1), ("10s", 1), ("30s", 5), ("45s", 5), ("1m", 10), ("67s", 1), ("2h", 10)]
)
def test_windows_move_in_steps_that_divide_them(span: str, step: float) -> None:
    assert Threshold.parse(f"ok >= 1% in every {span}").step == step


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("failures == 0", True),
        ("crashes <= 5", True),
        ("recovery < 30s", True),
        ("max < 1s", True),
        ("ok >= 95% in every 1m", True),
        ("ok >= 95%", False),
        ("failures < 1%", False),
        ("p99 < 1s", False),
        ("episodes >= 3", False),
        ("ok rate >= 50/s", False),
    ],
)
def test_what_can_be_lost_before_the_end(text: str, lost: bool) -> None:
    assert Threshold.parse(text).can_be_lost is lost


def test_a_mapping_says_that_it_ends_the_run() -> None:
    file = _File.model_validate({"thresholds": [{"that": "lost == 0", "abort": True}, {"that": "ok >= 1%"}]})

    assert [(str(one), one.abort) for one in file.thresholds] == [("lost == 0", True), ("ok >= 1%", False)]


def test_an_error_in_a_mapping_keeps_its_place() -> None:
    with pytest.raises(ValidationError) as caught:
        _File.model_validate({"thresholds": [{"that": "okk >= 95%", "abort": "yes", "more": 1}]})

    assert {problem["loc"][-1] for problem in caught.value.errors()} == {"that", "abort", "more"}
