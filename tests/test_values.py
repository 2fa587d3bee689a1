from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from supervisor.values import (
    Comparison,
    Duration,
    Intensity,
    Rate,
    Share,
    format_duration,
    format_size,
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
)

# --- as a person would say them --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("40s", 40.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("2d", 172_800.0),
        ("0.5s", 0.5),
        ("0", 0.0),
        (0, 0.0),
        ("0s", 0.0),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "40",
        40,
        1.5,
        True,
        False,
        None,
        "-1s",
        "1 hour",
        "40 S",
        "1,5s",
        "1e3s",
        "9" * 400 + "s",
        "٣s x",
        [],
    ],
)
def test_no_durations(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 500ms, 40s, 5m or 1h30m"):
        parse_duration(text)


@given(st.floats(0, 1e8))
def test_a_duration_is_written_as_it_is_read(seconds: float) -> None:
    text = format_duration(seconds)
    tolerance = 0.0006 if seconds < 60 else 0.5001
    assert parse_duration(text) == pytest.approx(seconds, abs=tolerance)
    assert format_duration(parse_duration(text)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (40, "40s"),
        (60, "1m"),
        (5400, "1h30m"),
        (90061, "1d1h1m1s"),
        (-1.5, "-1.5s"),
    ],
)
def test_durations_are_written_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "share"), [("95%", 0.95), ("0%", 0.0), ("100%", 1.0), (" 0.5 % ", 0.005), ("99.9%", 0.999)]
)
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["95", 95, 0.95, "101%", "-1%", "%", "", None])
def test_no_shares(text: object) -> None:
    with pytest.raises(ValueError, match="expected a share between 0% and 100%"):
        parse_share(text)


@given(whole=st.integers(1, 10**6), part=st.integers(0, 10**6))
def test_a_share_of_counts_meets_itself(whole: int, part: int) -> None:
    """999 of 1000 are 99.9 %: a threshold written with a few digits is met by counts that are exactly that."""
    assume(part <= whole)
    percent = f"{part * 100 / whole:.4f}"
    assert parse_share(f"{percent}%") == pytest.approx(part / whole, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "rate"), [("50/s", 50.0), ("10/m", 1 / 6), ("3 / 10s", 0.3), ("0.5/s", 0.5), ("1/500ms", 2.0)]
)
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["50", 50, "0/s", "1/0s", "/s", "5/", "-1/s", "5/x", "1/s/s", None])
def test_no_rates(text: object) -> None:
    with pytest.raises(ValueError, match="expected a rate such as 50/s, 10/m or 3/10s"):
        parse_rate(text)


@pytest.mark.parametrize(("text", "value"), [("20 / 10m", Intensity(20, 600.0)), ("0/1s", Intensity(0, 1.0))])
def test_intensities(text: str, value: Intensity) -> None:
    assert Intensity.parse(text) == value
    assert Intensity.parse(value) is value
    assert Intensity.parse(str(value)) == value


@pytest.mark.parametrize("text", ["20", "20/0s", "20/x", "/10m", "1.5/10m", "-1/10m", 20, None])
def test_no_intensities(text: object) -> None:
    with pytest.raises(ValueError, match="expected an intensity such as 20 / 10m"):
        Intensity.parse(text)


@given(times=st.lists(st.integers(0, 50)), count=st.integers(0, 5), period=st.integers(1, 20))
def test_one_more_than_an_intensity_allows_is_too_many(times: list[int], count: int, period: int) -> None:
    now = max(times, default=0)
    recent = [time for time in times if now - period < time <= now]
    assert Intensity(count, float(period)).exceeded(times, now) == (len(recent) > count)


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("< 5", 4, True),
        ("< 5", 5, False),
        ("<=5", "5", True),
        (">= 1", "x", False),
        ("> 1", None, False),
        (3, 3.0, True),
        ("ready", "ready", True),
        ("!= ready", "down", True),
        ("!= 5", "5.0", False),
        ("== 1e3", 1000, True),
    ],
)
def test_comparisons(text: object, value: object, holds: bool) -> None:
    comparison = Comparison.parse(text)
    assert comparison.holds(value) is holds
    assert Comparison.parse(str(comparison)) == comparison
    assert Comparison.parse(comparison) is comparison


@pytest.mark.parametrize("text", ["", "<", "< x", "=> 5", True, None, []])
def test_no_comparisons(text: object) -> None:
    with pytest.raises(ValueError, match="expected a comparison"):
        Comparison.parse(text)


class Entry(BaseModel):
    duration: Duration
    rate: Rate
    share: Share
    intensity: Intensity
    comparison: Comparison


GOOD = {"duration": "40s", "rate": "3/10s", "share": "95%", "intensity": "20 / 10m", "comparison": "< 5"}


def test_a_model_takes_them_as_they_are_written() -> None:
    entry = Entry.model_validate(GOOD)
    assert (entry.duration, entry.rate, entry.share) == (40.0, 0.3, 0.95)
    assert (entry.intensity, entry.comparison) == (Intensity(20, 600.0), Comparison("<", 5.0))
    with pytest.raises(ValidationError, match="5 validation errors"):
        Entry.model_validate(dict.fromkeys(GOOD, "=> ?"))


@given(
    text=st.one_of(st.text(max_size=12), st.from_regex(r"\A[\d.]{1,4} ?[a-z%/ ]{1,4}[\d]{0,2}[a-z]{0,2}\Z"))
)
@pytest.mark.parametrize("field", ["duration", "rate", "share", "intensity"])
def test_the_schema_refuses_nothing_that_is_read(field: str, text: str) -> None:
    """An editor that follows the schema must not mark what soakd takes."""
    pattern = Entry.model_json_schema()["properties"][field]["pattern"]
    try:
        Entry.model_validate(GOOD | {field: text})
    except ValidationError:
        return
    assume(text.isascii())
    assert re.search(pattern, text), (pattern, text)


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("64MB", 64_000_000), ("1GiB", 2**30), ("1.5 kB", 1500), ("2KiB", 2048)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("text", [64, "64", "64M", "1gb", "-1MB", "", None, True])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="expected a size such as 64MB or 1GiB"):
        parse_size(text)
