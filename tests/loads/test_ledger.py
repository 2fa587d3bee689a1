from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.loads import ledger as module
from supervisor.loads.acked import Acked
from supervisor.loads.ledger import Ledger


def acked(n: int, sequence: int = 0) -> Acked:
    return Acked(n, sequence or n, 0.0, "")


@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.sampled_from(["begin", "ack", "fail", "deliver"])), max_size=100
    )
)
def test_what_is_owed_was_acknowledged_and_never_delivered(steps: list[tuple[int, str]]) -> None:
    ledger = Ledger()
    begun: set[int] = set()
    ended: set[int] = set()
    acks: set[int] = set()
    seen: set[int] = set()
    for n, step in steps:
        if step == "begin" and n not in begun:
            begun.add(n)
            ledger.begin(n)
        elif step in ("ack", "fail") and n in begun - ended:
            ended.add(n)
            ledger.end(n, acked(n) if step == "ack" else None)
            acks |= {n} if step == "ack" else set()
        elif step == "deliver" and n in begun:
            again = n in seen
            assert ledger.delivered(n, n, 20, again=again) == ("redelivered" if again else "first")
            seen.add(n)
        assert set(ledger.owed) == acks - seen


def test_a_second_place_in_the_stream_is_a_duplicate_and_a_second_delivery_is_not() -> None:
    ledger = Ledger()
    assert ledger.delivered(1, 10, 5, again=False) == "first"
    assert ledger.delivered(1, 10, 5, again=True) == "redelivered"
    assert ledger.delivered(1, 11, 5, again=False) == "duplicates"
    assert ledger.delivered(6, 12, 5, again=False) == "unexpected"


def test_too_much_that_is_owed_goes_unchecked_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OWED", 10)
    ledger = Ledger()
    for n in range(1, 31):
        ledger.begin(n)
        ledger.end(n, acked(n))
    assert len(ledger.owed) == 10
    assert ledger.unchecked == 20
