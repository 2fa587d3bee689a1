"""What several processes see of one queue adds up to what one would have seen."""

from __future__ import annotations

import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from load_bench import Bench

from supervisor.loads.claim import ClaimLoad
from supervisor.loads.claim_book import Book, Note, Shared
from supervisor.loads.claims import Claims

WRONG = ("double_claims", "orphans", "stuck", "taken_over", "undecided")


def book(bench: Bench, *, lease: str = "10s") -> Book:
    load = ClaimLoad.model_validate(
        {"claim": {"stream": "JOBS"}, "workers": 3, "processes": 3, "lease": lease, "patience": "30s"}
    )
    return Book(load, bench.context("load"))


async def told(bench: Bench, of: Book) -> None:
    of._context.recorder.flush()
    await bench.settle()


def found(bench: Bench) -> dict[str, float]:
    return {name: count for name, count in bench.counts.items() if name in WRONG}


async def test_a_job_that_two_processes_have_is_claimed_twice(bench: Bench) -> None:
    """Whoever tells of it first."""
    ours = book(bench)
    for process in range(3):
        ours.take(process, [], 0)
    ours.take(1, [Note(5.2, "claimed", "a", 2, 5.1), Note(5.4, "finished", "a", 2)], 7)
    ours.take(2, [], 7)
    ours.take(0, [Note(5, "claimed", "a", 1, 4.9), Note(5.3, "finished", "a", 1)], 7)
    assert not ours.finish()
    await told(bench, ours)
    assert found(bench) == {"double_claims": 1}
    assert "double_claims: a, claimed by worker 2: held by worker 1" in bench.log("load")


async def test_what_a_process_had_that_died_accuses_nobody(bench: Bench) -> None:
    ours, now = book(bench), time.monotonic()
    long_ago = now - 100
    for process in range(3):
        ours.take(process, [Note(long_ago, "submitted", f"waits-{process}")], long_ago)
    ours.take(0, [Note(long_ago, "claimed", "held", 1, long_ago)], long_ago)
    ours.take(1, [Note(long_ago, "claimed", "mine", 2, long_ago)], long_ago)
    ours.left(0, well=False)  # it may have claimed what waits, and finished what it held, without a word
    ours.take(1, [Note(now + 8, "claimed", "held", 2, now + 7)], now + 9)
    ours.finish()
    await told(bench, ours)
    assert found(bench) == {"undecided": 3, "orphans": 1}, "but who lives is asked"


async def test_that_nobody_was_given_a_job_is_one_failure(bench: Bench) -> None:
    ours = book(bench)
    ours.finish()
    ours.finish()
    await told(bench, ours)
    assert bench.counts["nothing was ever claimed"] == 1


NOTES = st.lists(
    st.builds(
        lambda at, what, job, process, took: Note(at, what, job, process + 1, max(at - took, 0)),
        st.floats(0, 100),
        st.sampled_from(["submitted", "claimed", "claimed", "finished", "doubted", "forgotten"]),
        st.sampled_from("abc"),
        st.integers(0, 2),
        st.floats(0, 5),
    ),
    max_size=30,
)


class _Counted:
    def __init__(self) -> None:
        self.counts = Counter[str]()

    def add(self, name: str, amount: float) -> None:
        self.counts[name] += int(amount)


@given(NOTES, st.randoms(use_true_random=False))
def test_the_book_is_what_one_process_would_have_counted(notes: list[Note], chance: object) -> None:
    """In whatever batches, and however late, each process tells what it saw."""
    whole, merged = _Counted(), _Counted()
    one = Claims(whole.add, lambda *_: None, lease=10, patience=1000)
    for note in sorted(notes):
        _feed(one, note)
    ours = Book.__new__(Book)
    ours._claims = Claims(merged.add, lambda *_: None, lease=10, patience=1000)
    ours._notes, ours._upto, ours._every, ours._looked = [], dict.fromkeys(range(3), -1.0), 1.0, 0.0
    left = {process: sorted(n for n in notes if n.worker == process + 1) for process in range(3)}
    while any(left.values()):
        process = chance.choice([p for p in left if left[p]])  # type: ignore[attr-defined]
        size = chance.randint(1, len(left[process]))  # type: ignore[attr-defined]
        batch, left[process] = left[process][:size], left[process][size:]
        ours.take(process, batch, batch[-1].at)
    ours._sort_in(float("inf"))
    assert merged.counts == whole.counts


def _feed(claims: Claims, note: Note) -> None:
    """Call what a process itself would have called."""
    if note.what == "submitted":
        claims.submitted(note.job, note.at)
    elif note.what == "claimed":
        claims.claimed(note.job, note.worker, note.asked, note.at)
    elif note.what == "finished":
        claims.finished(note.job, note.worker, note.at)
    elif note.what == "doubted":
        claims.doubt(note.job, note.worker)
    else:
        claims.forget(note.job)


def test_each_process_keeps_up_its_part_and_knows_what_others_offer() -> None:
    told: list[Note] = []
    mine, other = (Shared(told.append, lease=10, patience=30) for _ in range(2))
    mine.submitted("a", 1)
    other.submitted("b", 1)
    other.claimed("c", 2, 1, 1, token=7)
    mine.hear(told[1])
    mine.hear(told[2])
    assert [*mine.waiting] == ["a", "b"]
    assert mine.ready == 1, "its own; the other one has its part"
    assert mine.held["c"].token == 7, "so it can be taken over"
    other.hear(told[0])
    other.claimed("a", 2, 3, 3)
    assert len(told) == 4, "what is heard is not told again"
    mine.hear(told[3])
    assert mine.ready == 0
