"""What the monitor makes of lists, descriptions and announcements, and what it finds worth telling."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.broker.monitor.invariants import CONFIRM, Violation
from supervisor.broker.monitor.news import APART
from supervisor.broker.monitor.picture import FRESH, LEADERLESS, URGENT, VIOLATIONS, Picture
from supervisor.broker.monitor.presence import PATIENCE
from supervisor.broker.monitor.snapshot import Consumers, Stream
from supervisor.journal.events import (
    ConsumerChanged,
    Event,
    InvariantViolated,
    LeaderChanged,
    StreamChanged,
)

NAMES = frozenset({"A", "B"})
CREATED = "2026-01-01T00:00:00Z"


class World:
    """A picture, the clock it goes by, and what it told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.events: list[Event] = []
        self.picture = Picture(self.events.append, lambda: self.now)
        self.picture.see_names(NAMES, self.now, whole=True)

    def hear(self, name: str = "A", **change: Any) -> None:
        self.now += 1
        self.picture.hear(
            Stream(name, **{"created": CREATED, "seen": self.now, "leader": "n1"} | change), self.now
        )

    def list(self, names: str) -> None:
        self.now += 1
        self.picture.see_names(frozenset(names), self.now, whole=True)

    def told(self, wait: float = 0.0) -> list[Event]:
        self.now += wait
        self.picture.tick()
        told, self.events[:] = list(self.events), []
        return told


@pytest.fixture
def world() -> World:
    world = World()
    for name in NAMES:
        world.hear(name)
    assert world.told() == [], "how it is at the beginning is no news"
    return world


# --- streams ---------------------------------------------------------------------------------------------------------


def test_created_and_deleted_streams_are_told_and_new_ones_asked_about(world: World) -> None:
    world.list("ABC")
    assert world.picture.wanted() == ["C"]
    assert world.told() == [StreamChanged(change="created", streams=("C",))]
    world.hear("C")
    assert world.picture.wanted() == []
    world.picture.announce("STREAM", "DELETED", ("C",), "")
    world.list("AB")
    assert world.told() == [StreamChanged(change="deleted", streams=("C",))]
    assert world.picture.streams.keys() == NAMES


def changes(world: World, wait: float = APART) -> list[str]:
    return [event.change for event in world.told(wait) if isinstance(event, StreamChanged)]


def test_a_stream_that_was_never_gone_is_told_as_such_once_that_is_certain(world: World) -> None:
    world.picture.announce("STREAM", "DELETED", ("A",), "")
    world.list("B")
    world.list("AB")
    world.hear("A")
    assert changes(world) == ["deleted"]
    world.now += PATIENCE
    world.hear("A")
    assert changes(world) == ["reappeared"]
    world.hear("A")
    assert changes(world) == []


def test_a_deleted_stream_that_a_server_shows_which_was_paused_meanwhile_is_no_news(world: World) -> None:
    world.picture.announce("STREAM", "DELETED", ("A",), "")
    world.list("B")
    world.list("AB")
    world.hear("A")
    assert world.picture.streams.keys() == {"B"}
    world.picture.announce("STREAM", "DELETED", ("A",), "")
    world.list("B")
    assert changes(world) == ["deleted"]
    world.list("AB")
    world.hear("A", created="2026-02-01T00:00:00Z")
    assert changes(world) == ["created"]
    assert world.picture.streams.keys() == NAMES


def test_a_stream_created_again_under_the_same_name_is_another(world: World) -> None:
    world.hear("A", last=10, messages=10)
    world.picture.announce("STREAM", "DELETED", ("A",), "")
    world.list("AB")
    assert world.picture.wanted() == ["A"], "announced, but listed: it must be looked at"
    world.hear("A", created="2026-02-01T00:00:00Z", last=1, messages=1)
    (event,) = world.told(wait=CONFIRM)
    assert event == StreamChanged(
        change="recreated", streams=("A",), over=CONFIRM, detail=f"{CREATED} -> 2026-02-01T00:00:00Z"
    )
    world.list("AB")
    assert world.picture.wanted() == []


def test_announced_streams_are_asked_about_and_told_without_waiting_for_a_list(world: World) -> None:
    world.picture.announce("STREAM", "CREATED", ("C",), "")
    assert world.picture.wanted() == ["C"]
    world.hear("C", quorum=False)
    assert "C" not in world.picture.presence.there, "whoever said so may know the past only"
    world.hear("C")
    assert world.picture.streams.keys() == NAMES | {"C"}
    assert world.told() == [StreamChanged(change="created", streams=("C",))]
    world.list("ABC")
    assert world.told() == []
    world.picture.announce("STREAM", "DELETED", ("C",), "")
    assert world.picture.wanted() == ["C"]
    world.picture.miss("C", world.now)
    assert (world.picture.streams.keys(), world.picture.wanted()) == (NAMES, [])
    world.list("AB")
    assert changes(world) == ["deleted"]


def test_a_late_announcement_of_a_stream_that_was_deleted_since_does_not_bring_it_back(world: World) -> None:
    world.picture.announce("STREAM", "DELETED", ("A",), "")
    world.picture.miss("A", world.now)
    world.picture.announce("STREAM", "CREATED", ("A",), "")
    world.hear("A")
    assert "A" not in world.picture.presence.there, "a server that was paused still has the old one"
    world.hear("A", created="2026-02-01T00:00:00Z")
    assert world.picture.streams.keys() == NAMES
    assert changes(world) == ["deleted", "created"]


def test_a_description_of_a_stream_nobody_listed_is_ignored(world: World) -> None:
    world.hear("Z")
    assert "Z" not in world.picture.streams


def test_an_older_statement_does_not_replace_a_newer_one(world: World) -> None:
    world.hear("A", last=10)
    world.picture.hear(Stream("A", CREATED, world.now + 1, last=5, leader="n1"), asked=world.now - 3)
    assert world.picture.streams["A"].last == 10


def test_without_a_majority_the_numbers_stay_and_say_so(world: World) -> None:
    world.hear("A", last=10, messages=10)
    seen = world.now
    world.hear("A", last=3, messages=3, leader="", current=1, quorum=False)
    assert world.picture.streams["A"] == Stream(
        "A", CREATED, seen, messages=10, last=10, leader="", current=1, quorum=False
    )


def test_a_lost_majority_is_told_after_a_while_and_when_it_is_back(world: World) -> None:
    world.hear("A", quorum=False)
    assert world.told() == []
    assert world.told(wait=LEADERLESS) == [LeaderChanged(change="quorum-lost", of="stream", groups=("A",))]
    world.hear("A")
    assert world.told() == [LeaderChanged(change="quorum-regained", of="stream", groups=("A: n1",))]


def test_a_late_announcement_of_a_lost_majority_is_not_told(world: World) -> None:
    world.picture.announce("STREAM", "QUORUM_LOST", ("A",), "")
    assert world.picture.wanted() == ["A"]
    world.hear("A")
    assert world.told(wait=LEADERLESS) == []


def test_a_new_leader_is_told_once_whoever_says_so_first(world: World) -> None:
    world.picture.announce("STREAM", "LEADER_ELECTED", ("A",), "n2")
    world.hear("A", leader="n2")
    world.hear("B", leader="n3")
    assert world.told() == [
        LeaderChanged(change="elected", of="stream", count=2, groups=("A: n2", "B: n3"), over=2.0)
    ]


def test_violations_are_told_in_full_up_to_a_number(world: World) -> None:
    for n in range(VIOLATIONS + 5):
        world.picture.violate(Violation("stream last_seq", f"S{n}", "went back", {"n": n}))
    told = [event for event in world.told() if isinstance(event, InvariantViolated)]
    assert (len(told), world.picture.violations) == (VIOLATIONS, VIOLATIONS + 5)
    assert told[3] == InvariantViolated(
        invariant="stream last_seq", subject="S3", detail="went back", data={"n": 3}
    )


def test_a_sequence_that_went_back_is_asked_about_and_told(world: World) -> None:
    world.hear("A", last=10)
    for _ in range(int(CONFIRM) + 2):
        world.hear("A", last=5)
        if not world.events:
            assert world.picture.wanted() == ["A"]
    (event,) = world.told()
    assert isinstance(event, InvariantViolated)
    assert event.subject == "A"


def test_silent_streams_are_asked_in_turn_and_urgent_ones_not_for_ever(world: World) -> None:
    names = [f"s{n}" for n in range(100)]
    world.picture.see_names(frozenset(names), world.now, whole=True)
    world.picture.urgent.clear()
    world.picture.silence([*names, "nobody"])
    assert len(world.picture.silent) == 100
    assert len({name for _ in range(4) for name in world.picture.wanted()}) == 100
    world.hear("s0")
    assert len(world.picture.silent) == 99
    world.picture.hurry(f"s{n}" for n in range(2 * URGENT))
    assert len(world.picture.urgent) == URGENT
    world.now += FRESH
    world.picture.wanted()
    assert not world.picture.urgent


def test_what_is_announced_while_a_stream_is_asked_about_has_it_asked_again(world: World) -> None:
    asked = world.now
    world.now += 1
    world.picture.announce("STREAM", "LEADER_ELECTED", ("A",), "n2")
    world.picture.hear(Stream("A", CREATED, world.now, leader="n1"), asked)
    assert world.picture.wanted() == ["A"], "that answer may be older than the announcement"
    world.hear("A", leader="n2")
    assert world.picture.wanted() == []


# --- consumers -------------------------------------------------------------------------------------------------------


def consumers(world: World, *durables: str, ephemeral: int = 0, missing: int = 0, wait: float = 1.0) -> None:
    world.now += wait
    world.picture.summarise(
        "A", Consumers(world.now, len(durables), ephemeral, missing=missing, durables=frozenset(durables))
    )


def test_a_durable_consumer_that_stays_away_is_told_as_deleted(world: World) -> None:
    consumers(world, "d", "e")
    consumers(world, "d")
    assert world.told() == []
    consumers(world, "d", wait=PATIENCE)
    assert world.told() == [
        ConsumerChanged(change="deleted", consumers=("A > e",), detail="nobody announced it")
    ]


def test_one_that_only_does_not_answer_or_comes_back_is_not(world: World) -> None:
    consumers(world, "d", "e")
    consumers(world, "d", missing=1, wait=PATIENCE)
    consumers(world, "d")
    consumers(world, "d", "e", wait=PATIENCE)
    consumers(world, "d")
    assert world.told() == []
    consumers(world, wait=1)
    consumers(world, wait=PATIENCE)
    assert [event.consumers for event in world.told() if isinstance(event, ConsumerChanged)] == [
        ("A > e", "A > d")
    ]
    assert "A" not in world.picture.consumers


def test_a_list_that_was_asked_for_before_a_consumer_was_deleted_brings_it_not_back(world: World) -> None:
    consumers(world, "d", "e")
    late = Consumers(world.now + 1, 2, durables=frozenset({"d", "e"}))
    world.now += 2
    world.picture.announce("CONSUMER", "DELETED", ("A", "e"), "")
    world.picture.summarise("A", late)
    assert (world.picture.consumers["A"].durables, world.picture.consumers["A"].durable) == ({"d"}, 1)
    consumers(world, "d", wait=2 * PATIENCE)
    (told,) = world.told()
    assert isinstance(told, ConsumerChanged)
    assert (told.change, told.count, told.consumers) == ("deleted", 1, ("A > e",))
    world.picture.announce("CONSUMER", "CREATED", ("A", "e"), "")
    consumers(world, "d", "e")
    assert world.picture.consumers["A"].durables == {"d", "e"}
    world.picture.summarise("A", late)
    assert world.picture.consumers["A"].seen == world.now, "an older list replaces no newer one"


def test_an_announced_one_is_told_once_and_our_own_never(world: World) -> None:
    consumers(world, "d")
    world.picture.announce("CONSUMER", "CREATED", ("A", "soakd-1234"), "")
    world.picture.announce("CONSUMER", "DELETED", ("A", "soakd-1234"), "")
    world.picture.announce("CONSUMER", "CREATED", ("A", "new"), "")
    world.picture.announce("CONSUMER", "DELETED", ("A", "d"), "")
    consumers(world, "new")
    consumers(world, "new", wait=PATIENCE)
    created, deleted = world.told()
    assert isinstance(created, ConsumerChanged)
    assert isinstance(deleted, ConsumerChanged)
    assert (created.change, created.consumers) == ("created", ("A > new",))
    assert (deleted.change, deleted.consumers, deleted.count) == ("deleted", ("A > d",), 1)


def test_other_announcements_are_passed_on_and_unknown_ones_ignored(world: World) -> None:
    for group, what, names, leader in (
        ("CONSUMER", "LEADER_ELECTED", ("A", "d"), "n2"),
        ("CONSUMER", "QUORUM_LOST", ("A", "d"), ""),
        ("CONSUMER", "MAX_DELIVERIES", ("A", "d"), ""),
        ("DOMAIN", "LEADER_ELECTED", (), "n3"),
        ("SERVER", "REMOVED", (), ""),
        ("STREAM", "CREATED", ("A", "odd"), ""),
    ):
        world.picture.announce(group, what, names, leader)
    assert world.told() == [
        LeaderChanged(change="elected", of="consumer", groups=("A > d: n2",)),
        LeaderChanged(change="quorum-lost", of="consumer", groups=("A > d",)),
        ConsumerChanged(change="max-deliveries", consumers=("A > d",)),
        LeaderChanged(change="elected", of="meta", groups=("n3",)),
    ]
    assert world.picture.meta_leader == "n3"


def test_nothing_is_kept_of_a_stream_that_is_gone(world: World) -> None:
    gone: list[str] = []
    world.picture.when_gone["A"] = lambda: gone.append("A")
    consumers(world, "d", "e")
    consumers(world, "d")
    world.hear("A", quorum=False)
    world.picture.silence(["A"])
    world.picture.announce("STREAM", "DELETED", ("A",), "")
    world.list("B")
    picture = world.picture
    assert gone == ["A"]
    for about in (
        picture.streams,
        picture.consumers,
        picture.urgent,
        picture.ledger.marks,
        picture._unled,
        picture._lost,
    ):
        assert "A" not in str(about)
    assert picture.silent == []
