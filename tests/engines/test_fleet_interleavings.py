"""Whoever acts on units at the same time: nobody starts what somebody else holds, and every exit has its true cause.

The real watchdogs and faults play on the same stage in `tests/faults/test_watchdog_contract.py`; here everybody does as he likes.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from imagined_engine import ACTOR, UNITS, Imagined

from supervisor.engines.base import EngineError
from supervisor.engines.fleet import Desired, Fleet, Held
from supervisor.journal.events import Cause, Event, UnitExited, UnitStarted

ASKS = signal.SIGUSR2


class Notes:
    """A journal that checks every start at the moment it is written down."""

    def __init__(self) -> None:
        self.fleet: Fleet
        self.exits: list[UnitExited] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, UnitStarted):
            status = self.fleet.status(event.unit)
            assert status.holder in {None, event.by}, f"{event.by} started what {status.holder} holds"
        if isinstance(event, UnitExited):
            self.exits.append(event)


Act = tuple[int, str, str]
acts = st.tuples(
    st.integers(0, 6),
    st.sampled_from(["hold down", "hold up", "release", "start", "stop", "kill", "term", "ask"]),
    st.sampled_from(UNITS),
)
crashes = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(UNITS)), max_size=5)


@settings(deadline=None, max_examples=80)
@given(
    scripts=st.fixed_dictionaries(
        {actor: st.lists(acts, max_size=6) for actor in ("x#1", "y#2", "operator", "run")}
    ),
    crashes=crashes,
    turns=st.lists(st.integers(0, 5), min_size=1, max_size=12),
)
def test_every_interleaving(
    scripts: dict[str, list[Act]], crashes: list[tuple[int, str]], turns: list[int]
) -> None:
    anyio.run(_play, scripts, crashes, turns)


async def _play(scripts: dict[str, list[Act]], crashes: list[tuple[int, str]], turns: list[int]) -> None:
    with anyio.fail_after(20):
        async with anyio.create_task_group() as background:
            engine, notes = Imagined(turns, background), Notes()
            fleet = Fleet(notes, {"e": engine}, {unit: ("e", unit) for unit in UNITS})  # type: ignore[arg-type]  # emit is all the fleet needs of a journal
            engine.fleet = notes.fleet = fleet
            background.start_soon(fleet.run)
            for unit in UNITS:
                background.start_soon(_watch, fleet, unit)
            ACTOR.set("run")
            try:
                await fleet.start_all()
                async with anyio.create_task_group() as actors:
                    for actor, script in scripts.items():
                        actors.start_soon(_act, engine, actor, script)
                    actors.start_soon(_crash, engine, crashes)
                await anyio.wait_all_tasks_blocked()
                _judge(engine, notes)
            finally:
                engine.close()
                background.cancel_scope.cancel()


def _judge(engine: Imagined, notes: Notes) -> None:
    assert {e.incarnation: (e.cause, e.by) for e in notes.exits} == engine.truth
    assert len(notes.exits) == len(engine.truth), "each exit once"
    for unit in UNITS:
        status = engine.fleet.status(unit)
        assert (status.desired, status.holder) == (Desired.UP, None)
        assert status.observed.incarnation == engine.alive.get(unit)
        if unit not in engine.alive:
            last = [e for e in notes.exits if e.unit == unit][-1]
            assert last.cause is not Cause.CRASH, "its watchdog saw it, and nobody held it in the end"


async def _act(engine: Imagined, actor: str, script: list[Act]) -> None:
    ACTOR.set(actor)
    fleet = engine.fleet
    does: dict[str, Callable[[str], Awaitable[Any]]] = {
        "hold down": lambda unit: fleet.hold(unit, by=actor, desired=Desired.DOWN),
        "hold up": lambda unit: fleet.hold(unit, by=actor, desired=Desired.UP),
        "release": lambda unit: _release(engine, unit, actor),
        "start": lambda unit: fleet.start(unit, by=actor),
        "stop": lambda unit: fleet.stop(unit, by=actor),
        "kill": lambda unit: fleet.kill(unit, by=actor, signal=signal.SIGKILL),
        "term": lambda unit: fleet.kill(unit, by=actor, signal=signal.SIGTERM),
        "ask": lambda unit: fleet.kill(unit, by=actor, signal=ASKS),
    }
    for wait, act, unit in script:
        for _ in range(wait):
            await checkpoint()
        try:
            await does[act](unit)
        except (Held, EngineError):
            continue
    for unit in UNITS:
        await _release(engine, unit, actor)


async def _release(engine: Imagined, unit: str, actor: str) -> None:
    """Release, which also takes back what was only asked for."""
    held = engine.fleet.status(unit).holder == actor
    await engine.fleet.release(unit, by=actor)
    if held and (incarnation := engine.alive.get(unit)):
        engine.marks[incarnation] = [mark for mark in engine.marks[incarnation] if mark != (actor, ASKS)]


async def _crash(engine: Imagined, crashes: list[tuple[int, str]]) -> None:
    for wait, unit in crashes:
        for _ in range(wait):
            await checkpoint()
        engine.end(unit, engine.alive.get(unit))


async def _watch(fleet: Fleet, unit: str) -> None:
    """A watchdog in the small."""
    ACTOR.set("watchdog")
    with fleet.departures(unit) as departures:
        async for gone in departures:
            while gone.cause is Cause.CRASH:
                try:
                    await fleet.start(unit, by="watchdog")
                    break
                except Held:
                    await fleet.wait_free(unit)
