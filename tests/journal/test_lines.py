from __future__ import annotations

import json
import math
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.journal.events import (
    KINDS,
    Event,
    JournalTrouble,
    LoadWindow,
    Observation,
    OpenEvent,
    Record,
    Slice,
    UnitExited,
    UnitReady,
    decode,
)
from supervisor.journal.lines import LineError, encode, line_of, parse

READY = UnitReady(unit="nats1", incarnation="17:4", took=0.25)
CLOCKS = st.floats(0, 4e9).map(lambda seconds: round(seconds, 6))
NUMBERS = st.floats(allow_nan=False)
WINDOWS = st.builds(
    LoadWindow,
    load=st.text(),
    start=NUMBERS,
    end=NUMBERS,
    scheduled=st.integers(0, 2**40),
    slices=st.lists(
        st.builds(
            Slice,
            episodes=st.lists(st.text(), max_size=3).map(tuple),
            ok=st.integers(0),
            errors=st.dictionaries(st.text(), st.integers(1, 99), max_size=3),
            response=st.lists(st.one_of(st.integers(0, 2**33), st.floats(0, 1e6)), max_size=9).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    counters=st.dictionaries(st.text(), NUMBERS, max_size=2),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.one_of(
    WINDOWS,
    st.builds(JournalTrouble, what=st.just("torn"), detail=st.text(), lost=st.integers(0)),
    st.builds(
        OpenEvent,
        name=st.text().filter(lambda name: name not in KINDS),
        data=st.dictionaries(st.text(), JSON, max_size=3),
    ),
)


def read(line: bytes) -> Record:
    head = parse(line)
    return Record(head.sequence, head.wall, head.mono, decode(head.kind, head.version, head.data))


def test_a_line_is_what_the_module_says() -> None:
    line = line_of(Record(12, 1763668618.250112, 5021.418203, READY), encode(READY))
    body = (
        b'{"v":1,"seq":12,"t":1763668618.250112,"m":5021.418203,"kind":"unit.ready",'
        b'"data":{"unit":"nats1","incarnation":"17:4","took":0.25}'
    )
    assert line == body + b',"crc":"%08x"}\n' % crc32(body)
    assert json.loads(line)["data"]["unit"] == "nats1"


def test_defaults_are_left_out() -> None:
    event = UnitExited(unit="a", incarnation="1", code=0, cause="run")  # type: ignore[arg-type]  # pydantic's own
    assert encode(event) == b'{"unit":"a","incarnation":"1","code":0,"cause":"run"}'


@given(event=EVENTS, sequence=st.integers(1, 2**60), wall=CLOCKS, mono=CLOCKS)
def test_any_record_comes_back_as_it_was(event: Event, sequence: int, wall: float, mono: float) -> None:
    record = Record(sequence, wall, mono, event)
    line = line_of(record, encode(event))
    assert line.count(b"\n") == 1
    assert read(line) == record
    json.loads(line)


@given(event=EVENTS, cut=st.integers(0), at=st.integers(0), bit=st.integers(0, 7))
def test_a_line_that_is_cut_or_altered_anywhere_is_refused(event: Event, cut: int, at: int, bit: int) -> None:
    line = line_of(Record(7, 1.5, 2.5, event), encode(event))
    with pytest.raises(LineError):
        parse(line[: cut % len(line)])
    altered = bytearray(line)
    altered[at % len(line)] ^= 1 << bit
    with pytest.raises(LineError):
        parse(bytes(altered))


@given(garbage=st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(LineError):
        parse(garbage)
    with pytest.raises(LineError):
        parse(garbage + b',"crc":"%08x"}\n' % crc32(garbage))


def test_a_folded_line_says_what_it_stands_for() -> None:
    line = line_of(Record(12, 1.0, 1.0, READY), encode(READY), covers=6)
    assert line.startswith(b'{"v":1,"seq":12,"n":6,"t":1.0,')
    assert parse(line).covers == 6


def test_infinities_come_back_in_any_depth() -> None:
    event = Observation(values={"a": math.inf, "b": -math.inf})
    assert read(line_of(Record(1, 1.0, 1.0, event), encode(event))).event == event


def test_what_is_no_json_is_refused_where_it_is_emitted() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(OpenEvent(name="x", data={"a": math.nan}))
    with pytest.raises(TypeError):
        encode(OpenEvent(name="x", data={"a": object()}))


def test_a_kind_or_version_without_a_class_stays_open() -> None:
    assert decode("my.kind", 3, b'{"a":1}') == OpenEvent(name="my.kind", data={"a": 1})
    assert decode("unit.ready", 2, b'{"x":1}') == OpenEvent(name="unit.ready", data={"x": 1})
    assert decode("unit.ready", 1, b'{"x":1}') == OpenEvent(name="unit.ready", data={"x": 1})
    assert decode("unit.ready", 1, encode(READY)[:-1] + b',"later":1}') == READY


def test_every_kind_of_event_has_a_class_of_its_own() -> None:
    assert len(set(KINDS.values())) == len(KINDS) >= 30
    for kind, cls in KINDS.items():
        assert cls.kind == kind
        assert cls.model_config["frozen"]
        assert cls.__doc__
