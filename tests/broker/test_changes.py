"""A flapping server cannot fill the journal, and the last state told is the true one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.broker.changes import BURST, EVERY, Changes
from supervisor.journal.events import BrokerChanged

STATES = ("connected", "disconnected", "reconnected", "closed")
EVENTS = st.sampled_from((*STATES, "lame-duck", "discovered", "rejected"))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def change(state: str, detail: str = "") -> BrokerChanged:
    return BrokerChanged.model_validate({"connection": "default", "state": state, "detail": detail})


def test_a_few_changes_pass_as_they_come() -> None:
    told: list[BrokerChanged] = []
    changes = Changes(told.append, Clock())
    events = [change("connected"), change("disconnected", "EOF"), change("reconnected")]
    for event in events:
        changes.offer(event)
    assert told == events


def test_of_a_flood_the_last_is_told_with_its_number() -> None:
    told: list[BrokerChanged] = []
    clock = Clock()
    changes = Changes(told.append, clock)
    for n in range(1000):
        changes.offer(change("disconnected" if n % 2 else "reconnected", f"{n}"))
    assert len(told) == BURST
    clock.now += EVERY
    changes.tick()
    assert told[-1] == change("disconnected", f"999 (the last of {1000 - BURST} such changes)")


def test_what_was_held_back_is_told_at_the_end() -> None:
    told: list[BrokerChanged] = []
    changes = Changes(told.append, Clock())
    for _ in range(BURST):
        changes.offer(change("disconnected"))
    changes.offer(change("rejected", "wrong password"))
    changes.offer(change("closed"))
    assert len(told) == BURST
    changes.flush()
    assert told[BURST:] == [change("rejected", "wrong password"), change("closed")]


@given(st.lists(st.tuples(EVENTS, st.floats(0, 30))))
def test_any_history(history: list[tuple[str, float]]) -> None:
    told: list[BrokerChanged] = []
    clock = Clock()
    changes = Changes(told.append, clock)
    start = clock.now
    for state, pause in history:
        changes.offer(change(state))
        clock.now += pause
        changes.tick()
        assert len(told) <= BURST + (clock.now - start) / EVERY
    changes.flush()
    assert len(told) <= len(history)
    for sort in (STATES, ("lame-duck",), ("discovered",), ("rejected",)):
        offered = [state for state, _ in history if state in sort]
        assert [event.state for event in told if event.state in sort][-1:] == offered[-1:]
