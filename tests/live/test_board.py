from __future__ import annotations

from dataclasses import replace

from supervisor.broker.monitor.snapshot import Bucket, Entries, Entry, Operation, Snapshot, Stream, pack
from supervisor.live.board import Board
from supervisor.live.picture import Wish


class Bench:
    """A board over snapshots that a test makes up, with a clock of its own."""

    def __init__(self) -> None:
        self.now, self.streams = 100.0, dict[str, Stream | None]()
        self.keys, self.complete, self.seen, self.doubted = dict[str, int](), True, True, frozenset[str]()
        self.board = Board(self._snapshot, clock=lambda: self.now)

    def _snapshot(self) -> Snapshot:
        bucket = Bucket(
            name="B", entries=Entries(self.keys.copy()), live=len(self.keys), complete=self.complete
        )
        seen = self.now if self.seen else None
        return Snapshot(
            taken=self.now,
            names_seen=seen,
            streams=dict(self.streams),
            doubted=self.doubted,
            buckets={"B": bucket},
        )

    def put(self, key: str, revision: int, operation: Operation = Operation.PUT) -> None:
        self.keys[key] = pack(Entry(revision, operation))

    def look(self, wish: Wish | None = None) -> list[str]:
        self.now += 1
        return [row.name for row in self.board.picture(wish or Wish()).streams]


def stream(name: str, messages: int = 0, at: str = "") -> Stream:
    return Stream(name, "2026-01-01T00:00:00Z", 0.0, messages=messages, last=messages, last_time=at)


def test_ten_thousand_streams_stand_in_the_order_of_change() -> None:
    bench = Bench()
    bench.streams = {f"s{n}": stream(f"s{n}", at=f"2026-01-01T{n:05}") for n in range(10_000)}
    assert bench.look()[:2] == ["s9999", "s9998"]
    for name in ("s17", "s4000"):
        bench.streams[name] = stream(name, 5)
        assert bench.look()[0] == name
    picture = bench.board.picture(Wish(rows=2))
    assert [(row.name, row.changed) for row in picture.streams] == [("s4000", 0.0), ("s17", 1.0)]
    assert (picture.total, picture.matching, picture.messages) == (10_000, 10_000, 10)
    assert bench.look(Wish(rows=3, streams_from=9_998)) == ["s1", "s0"]


def test_being_described_anew_is_no_change() -> None:
    bench = Bench()
    bench.streams = {"a": stream("a"), "b": stream("b")}
    bench.look()
    bench.streams["a"] = replace(stream("a"), seen=7.0)
    bench.look()
    assert all(row.changed is None for row in bench.board.picture(Wish()).streams)


def test_what_is_not_described_is_unknown_and_what_is_doubted_is_there() -> None:
    bench = Bench()
    bench.streams, bench.doubted = {"a": None, "b": stream("b")}, frozenset("b")
    bench.look()
    picture = bench.board.picture(Wish(sort="name"))
    assert [(row.name, row.known, row.messages, row.deleted) for row in picture.streams] == [
        ("a", False, None, False),
        ("b", True, 0, False),
    ]
    assert (picture.unknown, picture.streams[1].doubted) == (1, True)


def test_a_deleted_stream_is_shown_as_deleted_for_a_while() -> None:
    bench = Bench()
    bench.streams = {"a": stream("a"), "b": stream("b")}
    bench.look()
    del bench.streams["b"]
    assert bench.look() == ["b", "a"]
    assert bench.board.picture(Wish()).streams[0].deleted
    bench.now += 20
    assert bench.look() == ["a"]


def test_a_monitor_that_has_only_just_begun_takes_nothing_away() -> None:
    bench = Bench()
    bench.streams = {"a": stream("a")}
    bench.look()
    bench.streams, bench.seen = {}, False
    assert bench.look() == ["a"]


def test_filter_and_orders() -> None:
    bench = Bench()
    bench.streams = {name: stream(name, n) for n, name in enumerate(("ab", "Bc", "cd"))}
    bench.look()
    assert bench.look(Wish(match="B", sort="name")) == ["Bc", "ab"]
    assert bench.look(Wish(sort="messages")) == ["cd", "Bc", "ab"]


def test_entries_stand_in_the_order_of_change_with_when() -> None:
    bench = Bench()
    for n in range(1, 6):
        bench.put(f"k{n}", n)
    bench.look()
    bench.put("k2", 6, Operation.DELETE)
    bench.look()
    picture = bench.board.picture(Wish(rows=3))
    assert [(row.key, row.revision, row.operation, row.changed) for row in picture.entries] == [
        ("k2", 6, "delete", 0.0),
        ("k5", 5, "put", None),
        ("k4", 4, "put", None),
    ]
    assert picture.matching_entries == 5
    assert [row.key for row in bench.board.picture(Wish(match="K5")).entries] == ["k5"]


def test_a_bucket_that_was_created_again_begins_anew() -> None:
    bench = Bench()
    bench.put("old", 500)
    bench.look()
    bench.keys.clear()
    bench.put("new", 1)
    bench.look()
    bench.put("newer", 2)
    bench.look()
    rows = bench.board.picture(Wish()).entries
    assert [(row.key, row.changed) for row in rows] == [("newer", 0.0), ("new", None)]
