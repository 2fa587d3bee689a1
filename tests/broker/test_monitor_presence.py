"""Unknown is not gone, whatever lists and announcements say and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.broker.monitor.presence import GAP, PATIENCE, VALID, Difference, Presence

ABC = frozenset("abc")


@pytest.fixture
def presence() -> Presence:
    presence = Presence()
    assert presence.see(ABC, asked=0, now=0) == Difference(), "what was there at the start was not created"
    return presence


def see(presence: Presence, names: str, now: float, *, whole: bool = True) -> Difference:
    return presence.see(frozenset(names), asked=now, now=now, whole=whole)


def test_a_new_name_is_created(presence: Presence) -> None:
    assert see(presence, "abcd", 1) == Difference(created=["d"])
    assert presence.there == frozenset("abcd")


def test_a_missing_name_is_doubted_and_comes_back(presence: Presence) -> None:
    assert see(presence, "ab", 1) == Difference()
    assert (presence.there, set(presence.doubted)) == (ABC, {"c"})
    assert see(presence, "abc", 2) == Difference()
    assert (presence.there, set(presence.doubted)) == (ABC, set())


def test_a_name_is_gone_after_an_announced_deletion(presence: Presence) -> None:
    presence.announce("c", 0.5)
    assert see(presence, "ab", 1) == Difference(gone=["c"])
    assert presence.there == frozenset("ab")


def test_a_list_from_before_the_announcement_proves_nothing(presence: Presence) -> None:
    presence.announce("c", 1.0)
    assert presence.see(frozenset("ab"), asked=0.9, now=1.1) == Difference()
    assert see(presence, "ab", 1.5) == Difference(gone=["c"])


def test_without_an_announcement_it_takes_longer_than_a_leader_can_be_stale(presence: Presence) -> None:
    now = 1.0
    while now < 1 + PATIENCE:
        assert see(presence, "ab", now) == Difference()
        now += 0.5
    assert see(presence, "ab", now) == Difference(gone=["c"])


def test_a_gap_between_lists_begins_the_wait_anew(presence: Presence) -> None:
    see(presence, "ab", 1)
    now = 1 + GAP + 1
    for step in range(int(PATIENCE)):
        assert see(presence, "ab", now + step) == Difference()
    assert see(presence, "ab", now + PATIENCE) == Difference(gone=["c"])


def test_a_torn_list_shows_names_but_not_their_absence(presence: Presence) -> None:
    presence.announce("c", 0.5)
    assert see(presence, "abd", 1, whole=False) == Difference(created=["d"])
    assert presence.there == frozenset("abcd")
    assert see(presence, "abd", 2) == Difference(gone=["c"])


def test_a_late_announcement_of_something_that_is_there_is_settled_by_its_leader(presence: Presence) -> None:
    presence.announce("c", 1)
    assert see(presence, "abc", 2) == Difference(again=["c"])
    presence.settle("c", asked=0.5)
    assert see(presence, "abc", 3) == Difference(again=["c"]), "the leader was asked before it"
    presence.settle("c", asked=3)
    assert see(presence, "abc", 4) == Difference()
    assert see(presence, "ab", 5) == Difference(), "no longer announced, so only doubted"


def test_a_name_that_was_announced_and_is_lacking_when_asked_for_is_gone_at_once(presence: Presence) -> None:
    assert not presence.lack("c", asked=1), "nobody announced it, so that is only one word"
    presence.announce("c", 2)
    assert not presence.lack("c", asked=1.9), "it was asked for before"
    assert presence.lack("c", asked=2.1)
    assert not presence.lack("c", asked=2.2)
    assert presence.there == frozenset("ab")


def test_a_list_from_before_a_name_was_found_gone_does_not_bring_it_back(presence: Presence) -> None:
    presence.announce("c", 1)
    assert presence.lack("c", asked=2)
    assert presence.see(ABC, asked=1.9, now=2.3) == Difference()
    assert (presence.there, presence.doubted) == (frozenset("ab"), {})
    assert see(presence, "abc", 3) == Difference(created=["c"]), "asked for later, so it is another one"


def test_a_name_that_was_announced_and_is_described_is_there_at_once(presence: Presence) -> None:
    assert not presence.appear("d", asked=1), "nobody announced it"
    presence.expect("d", 2)
    assert not presence.appear("d", asked=1.9), "it was asked about before"
    assert presence.appear("d", asked=2.1)
    assert presence.there == frozenset("abcd")
    assert presence.see(ABC, asked=1.9, now=2.3) == Difference(), "a list from before lacks it"
    assert presence.there == frozenset("abcd")
    assert see(presence, "abcd", 3) == Difference()
    presence.announce("d", 4)
    assert presence.lack("d", asked=5)


def test_an_announced_name_that_goes_again_before_it_was_seen_never_was_there(presence: Presence) -> None:
    presence.expect("d", 1)
    presence.announce("d", 2)
    assert not presence.appear("d", asked=3), "who describes it may have been asked before"
    assert see(presence, "abc", 4) == Difference()


def test_what_is_announced_before_the_first_list_was_there_at_the_start() -> None:
    presence = Presence()
    presence.expect("a", 1)
    assert not presence.appear("a", asked=2)
    assert see(presence, "abc", 3) == Difference()


def test_an_announcement_that_nothing_bears_out_is_forgotten(presence: Presence) -> None:
    presence.announce("c", 1)
    now = 1.0
    while now <= 1 + VALID:
        see(presence, "abc", now := now + 1)
    assert see(presence, "ab", now + 1) == Difference()


def test_an_announcement_about_somebody_unknown_is_ignored(presence: Presence) -> None:
    presence.announce("x", 1)
    assert see(presence, "abcx", 2) == Difference(created=["x"])
    assert see(presence, "abc", 3) == Difference(), "it was about another x"


def test_the_same_list_again_costs_nothing_and_says_nothing(presence: Presence) -> None:
    same = frozenset("abcd")
    presence.see(same, asked=1, now=1)
    assert presence.see(same, asked=2, now=2) == Difference()
    presence.announce("d", 3)
    assert presence.see(same, asked=4, now=4) == Difference(again=["d"])


STEPS = st.lists(
    st.tuples(
        st.sets(st.sampled_from("abcd")),
        st.booleans(),
        st.sampled_from("-abcd"),
        st.floats(0.1, 8),
        st.booleans(),
    ),
    max_size=60,
)


@given(STEPS)
def test_nothing_goes_by_doubt_alone_before_its_time(
    steps: list[tuple[set[str], bool, str, float, bool]],
) -> None:
    presence, now = Presence(), 0.0
    listed_at: dict[str, float] = {}
    announced: dict[str, float] = {}
    for names, whole, told, pause, asked in steps:
        if told != "-":
            presence.announce(told, now)
            announced[told] = now
        now += pause
        if asked and told != "-" and presence.lack(told, now - 0.01):
            assert told not in presence.there
        difference = presence.see(frozenset(names), asked=now, now=now, whole=whole)
        for name in difference.gone:
            assert name not in names
            assert announced.get(name, -VALID) > now - VALID or now - listed_at[name] >= PATIENCE
        listed_at |= dict.fromkeys(names, now)
        assert names <= presence.there
        assert not set(difference.gone) & presence.there
        assert presence.doubted.keys() <= presence.there
