from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import anyio
import pytest
from probe_bench import PATIENCE, Watch

from supervisor.journal.events import Event, ProbeChanged, Record, SteadyChanged
from supervisor.journal.writer import JournalWriter
from supervisor.probes import steady
from supervisor.probes.base import CannotSee, Probe, Seen, View
from supervisor.probes.steady import SteadyState, default_probes, look_all

See = Callable[[], Awaitable[Seen]]


class Scripted(Probe):
    """A probe that sees what its script says."""

    key: ClassVar[str] = "scripted"
    scripted: Any
    name: str

    @property
    def title(self) -> str:
        return self.name

    @property
    def deadline(self) -> float:
        return PATIENCE

    async def see(self, view: View) -> Seen:  # noqa: ARG002  # a script needs no view
        await anyio.lowlevel.checkpoint()
        seen = self.scripted()
        return seen if isinstance(seen, Seen) else await seen


class Switch:
    """Something that is ok or not, and counts who asks."""

    def __init__(self, *, ok: bool = True) -> None:
        self.ok, self.asked = ok, 0

    def __call__(self) -> Seen:
        self.asked += 1
        return Seen(self.ok, self.asked, "" if self.ok else "it is off")


def scripted(name: str, script: Callable[[], Any], within: str = "0s") -> Scripted:
    return Scripted.model_validate({"scripted": script, "name": name, "within": within})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "POLL", 0.01)
    monkeypatch.setattr(steady, "EVERY", 0.01)


@pytest.fixture
def events(journal: JournalWriter) -> list[Event]:
    seen: list[Event] = []

    def note(record: Record) -> None:
        seen.append(record.event)

    journal.subscribe(note)
    return seen


async def settled(journal: JournalWriter) -> None:
    """Let everything that was emitted reach the listeners."""
    await journal.commit(SteadyChanged(holds=True, failing=("this is the test",)))


async def in_vain(state: SteadyState, *asked: Switch) -> tuple[str, ...]:
    """Wait for what never holds; return what fails. Once more if a busy machine left no time to ask these."""
    with anyio.fail_after(PATIENCE):
        while True:
            before = [switch.asked for switch in asked]
            holds, failing = await state.wait(0.05)
            assert not holds
            if all(switch.asked > count for switch, count in zip(asked, before, strict=True)):
                return failing


def changes(events: list[Event]) -> list[tuple[str, bool]]:
    return [(event.reading.probe, event.reading.ok) for event in events if isinstance(event, ProbeChanged)]


async def test_a_system_that_is_steady_is_seen_at_once(view: View, journal: JournalWriter) -> None:
    a, b = Switch(), Switch()
    state = SteadyState([scripted("a", a), scripted("b", b)], view, journal)
    assert await state.wait(PATIENCE) == (True, ())
    assert (a.asked, b.asked) == (1, 1)
    assert {title: reading.ok for title, reading in state.readings.items()} == {"a": True, "b": True}


async def test_all_must_hold_in_the_same_round(view: View, journal: JournalWriter) -> None:
    rounds: list[str] = []

    def turns(name: str) -> Callable[[], Seen]:
        def see() -> Seen:
            rounds.append(name)
            n = rounds.count(name)
            return Seen(n > 6 or (n % 2 == 0) == (name == "a"))

        return see

    state = SteadyState([scripted("a", turns("a")), scripted("b", turns("b"))], view, journal)
    assert await state.wait(PATIENCE) == (True, ())
    assert (rounds.count("a"), rounds.count("b")) == (7, 7)


async def test_what_fails_is_named_when_the_time_is_up(view: View, journal: JournalWriter) -> None:
    a, b = Switch(), Switch(ok=False)
    state = SteadyState([scripted("a", a), scripted("b", b)], view, journal)
    assert await in_vain(state, a, b) == ("b",)


async def test_a_probe_that_hangs_is_named_and_bounded(view: View, journal: JournalWriter) -> None:
    async def hang() -> Seen:
        await anyio.sleep_forever()
        raise AssertionError

    a = Switch()
    state = SteadyState([scripted("a", a), scripted("b", hang)], view, journal)
    assert await in_vain(state, a) == ("b",)


async def test_a_probe_that_began_to_hang_is_named(view: View, journal: JournalWriter) -> None:
    """Its last reading was ok, but not in a round in which the other one was."""
    late, once = Switch(), Switch()

    def at_last() -> Seen:
        late.ok = late.asked >= 1
        return late()

    def then_hang() -> object:
        return once() if once.asked < 1 else anyio.sleep_forever()

    with anyio.fail_after(PATIENCE):
        while late.asked < 2:  # a busy machine may not get to the second round in time
            late.asked = once.asked = 0
            state = SteadyState([scripted("a", at_last), scripted("b", then_hang)], view, journal)
            result = await state.wait(0.1)
    assert result == (False, ("b",))


async def test_a_probe_that_raises_is_never_ok(view: View, journal: JournalWriter) -> None:
    def broken() -> Seen:
        raise ZeroDivisionError("division by zero")

    def blind() -> Seen:
        raise CannotSee("it is dark")

    state = SteadyState([scripted("a", broken), scripted("b", blind)], view, journal)
    assert await state.wait(0.05) == (False, ("a", "b"))
    await state.look()
    assert state.readings["a"].detail == "the probe raised ZeroDivisionError: division by zero"
    assert state.readings["b"].detail == "it is dark"


async def test_no_time_is_not_steady(view: View, journal: JournalWriter) -> None:
    state = SteadyState([scripted("a", Switch())], view, journal)
    assert await state.wait(0) == (False, ("a",))


async def test_changes_are_journalled_once(view: View, journal: JournalWriter, events: list[Event]) -> None:
    a, b = Switch(), Switch()
    state = SteadyState([scripted("a", a), scripted("b", b)], view, journal)

    async def rounds(count: int) -> None:
        asked = a.asked
        with anyio.fail_after(PATIENCE):
            while a.asked < asked + count:  # noqa: ASYNC110  # nobody tells
                await anyio.sleep(0.005)

    async with anyio.create_task_group() as group:
        group.start_soon(state.run)
        await rounds(3)
        a.ok = False
        await rounds(3)
        b.ok = False
        await rounds(3)
        a.ok = b.ok = True
        await rounds(3)
        group.cancel_scope.cancel()
    await settled(journal)
    expected = [("a", True), ("b", True), ("a", False), ("b", False), ("a", True), ("b", True)]
    assert changes(events) == expected
    said = [(event.holds, event.failing) for event in events if isinstance(event, SteadyChanged)]
    assert said[:-1] == [(True, ()), (False, ("a",)), (True, ())]


async def test_within_forgives_a_short_failure(
    view: View, journal: JournalWriter, events: list[Event]
) -> None:
    patient, strict = Switch(), Switch()
    state = SteadyState(
        [scripted("patient", patient, within="1h"), scripted("strict", strict)], view, journal
    )
    assert await state.wait(PATIENCE) == (True, ())
    patient.ok = strict.ok = False
    for _ in range(3):
        assert not any(reading.ok for reading in await state.look())
    await settled(journal)
    assert changes(events) == [("patient", True), ("strict", True), ("strict", False)]


async def test_within_ends(view: View, journal: JournalWriter, events: list[Event]) -> None:
    state = SteadyState([scripted("a", Switch(ok=False), within="50ms")], view, journal)
    began = time.monotonic()
    with anyio.fail_after(PATIENCE):
        while not changes(events):
            assert not any(reading.ok for reading in await state.look())
            await settled(journal)
    records = [event for event in events if isinstance(event, ProbeChanged)]
    assert changes(events) == [("a", False)]
    assert records[0].reading.detail == "it is off"
    assert time.monotonic() - began >= 0.05


async def test_look_all_gives_each_probe_its_time(view: View) -> None:
    off, late = Switch(ok=False), Switch(ok=False)

    def at_last() -> Seen:
        late.ok = late.asked >= 3
        return late()

    readings = await look_all(
        [scripted("off", off), scripted("late", at_last, within="10s"), scripted("on", Switch())], view
    )
    assert [(reading.probe, reading.ok) for reading in readings] == [
        ("off", False),
        ("late", True),
        ("on", True),
    ]
    assert off.asked == 1
    assert readings[1].value == 4
    assert readings[1].took >= 0.02


async def test_look_all_ends_when_the_time_is_up(view: View) -> None:
    off, asked = Switch(ok=False), 0
    with anyio.fail_after(PATIENCE):
        while off.asked < asked + 2:  # on a busy machine a single look may take all the time
            asked = off.asked
            (reading,) = await look_all([scripted("off", off, within="50ms")], view)
    assert not reading.ok


async def test_by_default_units_are_up(watching: Watch, journal: JournalWriter) -> None:
    async with watching(n1="exec sleep 1000", n2="exec sleep 1000") as view:
        probes = default_probes(view.fleet.ids, broker=False)
        state = SteadyState(probes, view, journal)
        assert await state.wait(PATIENCE) == (True, ())
        await view.fleet.stop("n2", by="test")
        with anyio.fail_after(PATIENCE):
            while await state.wait(0.05) != (False, ("unit n2 up",)):
                pass  # a busy machine had no time for a look
        await view.fleet.start("n2", by="test")
        assert await state.wait(PATIENCE) == (True, ())


def test_by_default_the_broker_answers_if_there_is_one() -> None:
    assert [probe.title for probe in default_probes(["n1"], broker=True)] == [
        "unit n1 up",
        "broker canary < 1s",
    ]
