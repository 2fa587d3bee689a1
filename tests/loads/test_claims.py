"""Which claims of a job are right, by themselves: no queue, no worker."""

from collections import Counter

from supervisor.loads.claims import Claims, Job


class Ledger(Claims):
    """Claims, and what was counted."""

    def __init__(self, lease: float | None = 10) -> None:
        self.counts = Counter[str]()
        self.told: list[str] = []
        super().__init__(self._add, self._note, lease=lease, patience=30)

    def _add(self, name: str, amount: float) -> None:
        self.counts[name] += int(amount)

    def _note(self, what: str, detail: str, job: Job) -> None:
        self.told.append(f"{what} {job.name} {detail}")

    @property
    def found(self) -> dict[str, int]:
        return {name: count for name, count in self.counts.items() if count and name != "claims"}


def test_one_job_for_one_worker_is_right() -> None:
    ledger = Ledger()
    ledger.submitted("a", 0)
    ledger.claimed("a", 1, 1, 2)
    ledger.finished("a", 1, 3)
    ledger.look(1000)
    assert ledger.found == {}
    assert not ledger.waiting
    assert not ledger.held


def test_a_job_that_two_have_is_claimed_twice() -> None:
    ledger = Ledger()
    ledger.claimed("a", 1, 0, 1)
    ledger.claimed("a", 2, 8, 9.9)
    assert ledger.found == {"double_claims": 1}
    assert ledger.told == ["double_claims a held by worker 1 since 9.900s"]
    ledger.finished("a", 2, 12)
    ledger.claimed("a", 3, 100, 101)
    assert ledger.counts["double_claims"] == 2, "it was finished, whatever its lease"


def test_after_its_lease_a_job_may_be_anothers() -> None:
    ledger = Ledger()
    ledger.claimed("a", 1, 0, 9)
    ledger.claimed("a", 2, 9, 10)
    assert ledger.found == {"taken_over": 1}
    ledger.finished("a", 1, 11)  # who lost it cannot finish it for the other
    assert "a" in ledger.held
    never = Ledger(lease=None)
    never.claimed("a", 1, 0, 0)
    never.claimed("a", 2, 1e6, 1e6)
    assert never.found == {"double_claims": 1}


def test_in_doubt_nobody_is_accused() -> None:
    ledger = Ledger()
    ledger.claimed("a", 1, 0, 1)
    ledger.doubt("a", 1)
    ledger.claimed("a", 2, 2, 3)
    ledger.doubt("a", 2)
    ledger.look(100)
    assert ledger.found == {"undecided": 1}
    assert not ledger.held


def test_what_waits_or_is_held_too_long_is_counted_once() -> None:
    ledger = Ledger()
    ledger.submitted("a", 0)
    ledger.submitted("b", 20)
    ledger.claimed("c", 1, 0, 0)
    for now in (29, 31, 32):
        ledger.look(now)
    assert ledger.found == {"stuck": 1, "orphans": 1}
    ledger.claimed("a", 2, 40, 40)
    ledger.claimed("c", 3, 40, 40)
    assert ledger.found == {"stuck": 1, "orphans": 1, "late_claims": 2, "taken_over": 1}
