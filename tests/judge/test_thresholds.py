from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_story import patient
from pydantic import BaseModel, TypeAdapter, ValidationError

from supervisor.judge.thresholds import LONGEST, METRICS, OPERATORS, Subject, Threshold, ThresholdError, Unit
from supervisor.values import parse_duration, parse_share


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

    assert (one.metric.name, one.op, one.value, one.unit, one.load, one.of) == expected
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
    with pytest.raises(ThresholdError, match='such as "load rpc: ok >= 95%"'):
        Threshold.parse(value)


NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,20}", fullmatch=True)
NUMBERS = st.one_of(st.integers(0, 10**9).map(str), st.decimals(0, 10**6, places=3).map(str))
LITERALS = {
    Unit.COUNT: NUMBERS,
    Unit.SHARE: st.decimals(0, 100, places=2).map(lambda number: f"{number}%"),
    Unit.DURATION: st.tuples(NUMBERS, st.sampled_from(["ms", "s", "m", "h", "d"])).map("".join),
}
READ = {Unit.COUNT: float, Unit.SHARE: parse_share, Unit.DURATION: parse_duration}


@patient
@given(st.data())
def test_what_is_written_is_what_is_read(data: st.DataObject) -> None:
    metric = METRICS[data.draw(st.sampled_from(sorted(METRICS)))]
    unit = data.draw(st.sampled_from(metric.units))
    op = data.draw(st.sampled_from(sorted(OPERATORS)))
    literal = data.draw(LITERALS[unit])
    load = data.draw(st.none() | NAMES) if metric.subject is Subject.LOAD else None
    of = data.draw(st.none() | NAMES) if metric.subject is not Subject.LOAD else None
    space = st.text(" \t", max_size=3)
    parts = [f"load {load}", ":"] if load else []
    parts += [metric.name, f" of {of}"] if of else [metric.name]
    text = "".join(part + data.draw(space) for part in [*parts, op, literal])

    threshold = Threshold.parse(text)

    assert (threshold.metric, threshold.op, threshold.unit) == (metric, op, unit)
    assert (threshold.load, threshold.of) == (load, of)
    assert threshold.value == READ[unit](literal)
    assert Threshold.parse(str(threshold)) == threshold


WORDS = st.sampled_from(
    [*METRICS, *OPERATORS, "load", "of", ":", "rpc", "95%", "5", "3s", "counter", "=", "!="]
)


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
    assert TypeAdapter(Threshold).json_schema()["type"] == "string"
    assert _File(thresholds=file.thresholds) == file


def test_an_error_in_the_soak_file_keeps_its_place_and_text() -> None:
    with pytest.raises(ValidationError) as caught:
        _File.model_validate({"thresholds": ["crashes <= 5", "okk >= 95%"]})

    (problem,) = caught.value.errors()
    assert problem["loc"] == ("thresholds", 1)
    assert isinstance(problem["ctx"]["error"], ThresholdError)
    assert problem["ctx"]["error"].position == 0
