"""The book of a bucket's entries: what is told late never overwrites what is newer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.broker.monitor.entries import Book
from supervisor.broker.monitor.snapshot import Entry, Operation, pack, unpack

PUT, DELETE, PURGE = Operation.PUT, Operation.DELETE, Operation.PURGE


def book(*entries: tuple[str, int, Operation]) -> Book:
    book = Book()
    for key, revision, operation in entries:
        assert book.apply(key, Entry(revision, operation)) is None, "the first picture is no change"
    book.complete = True
    return book


def test_changes_are_told_by_what_they_are() -> None:
    known = book(("a", 1, PUT), ("b", 2, PUT))
    assert known.apply("a", Entry(3, PUT)) == "put"
    assert known.apply("a", Entry(4, DELETE)) == "deleted"
    assert known.apply("b", Entry(5, PURGE)) == "purged"
    assert known.apply("c", Entry(6, PUT)) == "put"
    assert (known.live, len(known)) == (1, 3)
    assert dict(known.entries()) == {"a": Entry(4, DELETE), "b": Entry(5, PURGE), "c": Entry(6, PUT)}


def test_the_same_again_is_no_change_and_an_older_one_is_only_noted() -> None:
    known = book(("a", 5, PUT))
    assert known.apply("a", Entry(5, PUT)) is None
    assert not known.older
    assert known.apply("a", Entry(3, DELETE)) is None
    assert (known["a"], known.live, known.older) == (Entry(5, PUT), 1, {"a"})
    assert known.apply("a", Entry(6, PUT)) == "put"
    assert not known.older


def test_vanished_keys_are_those_not_listed_that_are_no_newer_than_the_list() -> None:
    known = book(("a", 1, PUT), ("b", 2, PUT), ("c", 9, PUT))
    assert known.absent({"a"}, revision=8) == ["b"]
    assert known.drop(["b", "x"]) == ["b"]
    assert (known.live, set(known.keys())) == (2, {"a", "c"})


def test_a_smaller_revision_can_be_accepted() -> None:
    known = book(("a", 5, PUT))
    known.apply("a", Entry(3, PUT))
    known.accept([("a", 3), ("x", 1)])
    assert (known["a"], known.older, len(known)) == (Entry(3, PUT), set(), 1)


def test_a_cleared_book_begins_anew() -> None:
    known = book(("a", 5, PUT), ("b", 6, DELETE))
    known.apply("a", Entry(3, PUT))
    assert known.clear() == ["a", "b"]
    assert (len(known), known.live, known.older, known.complete) == (0, 0, set(), False)
    assert known.apply("a", Entry(1, PUT)) is None


def test_a_picture_stays_as_it_is_and_is_made_anew_only_after_changes() -> None:
    known = book(("a", 1, PUT))
    before = known.entries()
    assert known.entries() is before
    known.apply("b", Entry(2, PUT))
    assert dict(before) == {"a": Entry(1, PUT)}
    assert set(known.entries()) == {"a", "b"}


ENTRIES = st.builds(Entry, st.integers(1, 2**60), st.sampled_from(Operation), st.booleans())


@given(ENTRIES, ENTRIES)
def test_a_packed_entry_is_itself_and_compares_by_revision(one: Entry, other: Entry) -> None:
    assert unpack(pack(one)) == one
    if one.revision < other.revision:
        assert pack(one) < pack(other)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20), st.sampled_from(Operation)), max_size=50)
)
def test_the_book_always_has_the_newest_of_each_key_and_counts_right(
    told: list[tuple[str, int, Operation]],
) -> None:
    known, newest = Book(), dict[str, int]()
    for key, revision, operation in told:
        known.apply(key, Entry(revision, operation))
        newest[key] = max(newest.get(key, 0), revision)
    assert {key: entry.revision for key, entry in known.entries().items()} == newest
    assert known.live == sum(entry.operation is PUT for entry in known.entries().values())


def test_what_was_told_anew_is_not_set_back() -> None:
    known = book(("a", 5, PUT), ("b", 5, PUT))
    for key in ("a", "b"):
        known.apply(key, Entry(2, PUT))
    known.apply("b", Entry(6, PUT))
    known.accept([("a", 2), ("b", 2), ("gone", 2)])
    assert (known["a"].revision, known["b"].revision, known.older) == (2, 6, set())
