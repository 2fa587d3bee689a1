from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.loads import junit
from supervisor.loads.junit import Case, JUnitError, Report, error_class, read_report

PYTEST = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="2" failures="2" skipped="2" tests="7" time="3.500"
  timestamp="2026-11-20T20:08:20.500000+00:00" hostname="vm">
<testcase classname="" name="test_b" time="0.000"><error message="collection failure">ImportError</error></testcase>
<testcase classname="test_a" name="test_ok" time="1.250" />
<testcase classname="test_a.TestK" name="test_p[b c]" time="0.500"><failure
  message="nats.errors.TimeoutError: nats: timeout&#10;more">self = ...</failure></testcase>
<testcase classname="test_a" name="test_err" time="0.000"><error
  message="failed on setup with &quot;ConnectionError: no 127.0.0.1:4222 here&quot;">...</error></testcase>
<testcase classname="test_a" name="test_both" time="0.100"><failure message="ValueError: x">...</failure></testcase>
<testcase classname="test_a" name="test_both" time="0.200"><error
  message="failed on teardown with &quot;OSError: tear&quot;">...</error></testcase>
<testcase classname="test_a" name="test_skip" time="0.000"><skipped type="pytest.skip" message="s">...</skipped></testcase>
<testcase classname="test_a" name="test_xfail" time="0.000"><skipped type="pytest.xfail" message="" /></testcase>
</testsuite></testsuites>"""


def read(tmp_path: Path, text: str | bytes) -> Report:
    path = tmp_path / "report.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_report(path)


def test_what_pytest_writes(tmp_path: Path) -> None:
    report = read(tmp_path, PYTEST)
    assert [(case.name, case.outcome, case.took, case.error) for case in report.cases] == [
        ("test_b", "failed", 0.0, "collection failure"),
        ("test_a::test_ok", "ok", 1.25, ""),
        ("test_a.TestK::test_p[b c]", "failed", 0.5, "TimeoutError: nats: timeout"),
        ("test_a::test_err", "failed", 0.0, "setup: ConnectionError: no N:N here"),
        ("test_a::test_both", "failed", 0.2, "ValueError: x"),
        ("test_a::test_skip", "skipped", 0.0, ""),
        ("test_a::test_xfail", "skipped", 0.0, ""),
    ]
    assert report.cases[2].detail == "nats.errors.TimeoutError: nats: timeout\nmore"
    assert report.ended == 1795205304.0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no element found"),
        ("<testsuite><testcase>", "no element found"),
        ("not XML", "syntax error"),
        (b"\xff\xfe\x00", "cannot be read"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "it declares a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "it declares a document type"),
    ],
)
def test_what_is_no_report(tmp_path: Path, text: str | bytes, why: str) -> None:
    with pytest.raises(JUnitError, match=why):
        read(tmp_path, text)


def test_a_report_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JUnitError, match="no JUnit report was written"):
        read_report(tmp_path / "away.xml")
    with pytest.raises(JUnitError, match="cannot be read"):
        read_report(tmp_path)


def test_a_report_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(junit, "LIMIT", 1000)
    with pytest.raises(JUnitError, match="larger than"):
        read(tmp_path, PYTEST)


def test_odd_times_count_as_none(tmp_path: Path) -> None:
    text = '<testsuite timestamp="soon"><testcase time="1,234.5"/><testcase time="nan"/><testcase time="-1"/></testsuite>'
    report = read(tmp_path, text)
    assert [case.took for case in report.cases] == [1234.5, 0.0, 0.0]
    assert report.ended is None


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_nothing_but_a_report_error_comes_of_any_input(data: bytes) -> None:
    reader = junit._Reader()
    try:
        reader.parse(data)
    except (junit.expat.ExpatError, ValueError):
        assert not reader.cases


@pytest.mark.parametrize(
    ("message", "type_", "expected"),
    [
        ("assert 3 == 5\n +  where", "", "AssertionError: assert N == N"),
        ("AssertionError: numbers differ\nassert ...", "", "AssertionError: numbers differ"),
        ("assert [1, 2, 3] == []", "", "AssertionError: assert [N, ..] == []"),
        ("KeyError: 'a8f3d9'", "", "KeyError: '<id>'"),
        ("no stream_prefill_1734", "", "no stream_prefill_N"),
        ("at <Foo object at 0x7f00ab>", "", "at <Foo object at <address>>"),
        ("job 123e4567-e89b-12d3-a456-426614174000 is gone", "", "job <id> is gone"),
        ("inbox _INBOX.aB3dE5fG7hI9kL1mN3", "", "inbox _INBOX.<id>"),
        ("nats.errors.TimeoutError", "", "TimeoutError"),
        ("decade faced", "", "decade faced"),
        ("took 3.25s  of\t4", "", "took Ns of N"),
        ("expected <true>", "org.junit.AssertionFailedError", "AssertionFailedError: expected <true>"),
        ("", "java.lang.Error", "Error"),
        ("", "", "error without a message"),
        ("x" * 500, "", "x" * 100),
    ],
)
def test_error_classes_are_short_and_stable(message: str, type_: str, expected: str) -> None:
    assert error_class(message, type_) == expected


@given(st.text())
def test_an_error_class_is_one_short_line(message: str) -> None:
    error = error_class(message)
    assert error
    assert len(error) <= junit.CLASS_LENGTH
    assert "\n" not in error


cases = st.lists(st.floats(0, 50).map(lambda took: Case("a", took=took)), max_size=20).map(tuple)


@given(cases, st.floats(0, 100), st.floats(0, 100), st.none() | st.floats(-50, 300))
def test_cases_lie_in_order_within_their_iteration(
    cases: tuple[Case, ...], start: float, took: float, ended: float | None
) -> None:
    end = start + took
    laid_out = list(Report(cases, ended).lay_out(start, end, 0.0))
    assert tuple(case for case, _, _ in laid_out) == cases
    ends = [ended for _, _, ended in laid_out]
    assert ends == sorted(ends)
    for case, began, ended_ in laid_out:
        assert start <= began <= ended_ <= end
        assert ended_ - began <= case.took + 1e-9


def test_cases_that_follow_one_another_end_with_their_suite() -> None:
    report = Report((Case("a", took=1.0), Case("b", took=2.0)), ended=1109.5)
    assert [(began, ended) for _, began, ended in report.lay_out(100.0, 110.0, 1000.0)] == [
        (106.5, 107.5),
        (107.5, 109.5),
    ]


def test_without_a_time_they_end_with_the_iteration() -> None:
    for ended in (None, 99_999.0, 1.0):
        report = Report((Case("a", took=1.0), Case("b", took=2.0)), ended)
        assert [(began, end) for _, began, end in report.lay_out(100.0, 110.0, 1000.0)] == [
            (107.0, 108.0),
            (108.0, 110.0),
        ]


def test_cases_that_ran_side_by_side_keep_their_times() -> None:
    report = Report(tuple(Case("a", took=4.0) for _ in range(4)), None)
    assert [(began, end) for _, began, end in report.lay_out(0.0, 8.0, 0.0)] == [
        (0.0, 2.0),
        (0.0, 4.0),
        (2.0, 6.0),
        (4.0, 8.0),
    ]
