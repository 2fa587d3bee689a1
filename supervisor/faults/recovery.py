"""How what was injected is undone: by the run itself, and by `soakd recover` after its death.

Every episode is undone for itself: one that cannot be undone never keeps the others waiting. An attempt that fails is journalled with
what may still be broken, and made again a few times.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal

import anyio
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_attempt, wait_exponential

from supervisor.engines.base import EngineError, UnitState
from supervisor.engines.fleet import Fleet
from supervisor.faults.base import Fault, UndoError, World
from supervisor.faults.hold import HOLD
from supervisor.journal.base import Journal, JournalError
from supervisor.journal.events import EpisodeClosed, Event, FaultIntent, FaultUndone, UndoFailed
from supervisor.values import format_duration

ATTEMPTS: Final = 5
FIRST_PAUSE: Final = 0.25
"""Seconds before the second attempt, doubled for each one after it: five attempts are made within 4 s of pauses."""
COMMIT_TIMEOUT: Final = 5.0
"""Seconds that a record may take to the disk before whoever writes it stops waiting: as long as evidence of a crash may take."""


Away = Callable[[FaultIntent], Awaitable[Mapping[str, str]]]
"""Waits until it is known whether the engines of an episode's targets can be reached; returns the targets where not, each with why."""


async def _nobody(_: FaultIntent) -> Mapping[str, str]:
    await anyio.lowlevel.checkpoint()
    return {}


def describe(error: BaseException) -> str:
    """Return what an exception says, and for a group what each of its members says."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe(member) for member in error.exceptions)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def record(journal: Journal, event: Event) -> None:
    """Write a durable event, not to be cancelled. If that fails the journal says so itself, and undoing goes on."""
    try:
        with anyio.move_on_after(COMMIT_TIMEOUT, shield=True):
            await journal.commit(event)
    except JournalError:
        journal.emit(event)  # it is true all the same


def still_broken(intent: FaultIntent, error: BaseException | None = None) -> str:
    """Say what may still be in place of an episode, and how to mend it."""
    if isinstance(error, UndoError):
        return str(error)
    where = ", ".join(target.unit for target in intent.targets) or "the system"
    return f"{intent.type} may still be in place on {where}: run `soakd recover` with this run's directory, or mend it by hand"


async def undo_episode(
    fault: Fault,
    world: World,
    intent: FaultIntent,
    journal: Journal,
    by: Literal["run", "recover"] = "run",
    *,
    away: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Undo one episode in up to `ATTEMPTS` attempts; return what the last one said, empty if it succeeded.

    `away` are targets that cannot be reached just now, each with why: what was done to the others is undone, and the episode is not.
    """
    failure = ""
    retrying = AsyncRetrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=FIRST_PAUSE),
        retry=retry_if_exception_type(Exception),
        sleep=anyio.sleep,
    )
    try:
        async for attempt in retrying:
            number = attempt.retry_state.attempt_number
            with attempt:
                try:
                    await _undo_once(fault, world, intent)
                except BaseException as error:  # a cut-off attempt may have left something in place as well
                    failure = describe(error) if isinstance(error, Exception) else "it was cut off"
                    broken = still_broken(intent, error)
                    await record(
                        journal,
                        UndoFailed(episode=intent.episode, attempt=number, error=failure, broken=broken),
                    )
                    raise
    except RetryError:
        return failure
    if away:
        failure = "; ".join(f"cannot reach {unit}: {why}" for unit, why in away.items())
        broken = f"{intent.type} may still be in place on {', '.join(away)}: mend the cause and run `soakd recover`"
        await record(
            journal, UndoFailed(episode=intent.episode, attempt=number, error=failure, broken=broken)
        )
        return failure
    await record(journal, FaultUndone(episode=intent.episode, by=by, attempts=number))
    return ""


async def _undo_once(fault: Fault, world: World, intent: FaultIntent) -> None:
    with anyio.move_on_after(fault.undo_timeout) as scope:
        await fault.undo(world, intent)
    if scope.cancelled_caught:
        raise TimeoutError(f"undo did not end within undo_timeout, {format_duration(fault.undo_timeout)}")


async def undo_open(
    intents: Mapping[str, FaultIntent],
    faults: Mapping[str, Fault],
    world: World,
    journal: Journal,
    by: Literal["run", "recover"] = "recover",
    *,
    away: Away = _nobody,
) -> list[str]:
    """Undo every episode that is open, all at once; return a line for a person about each, in the order given.

    What is undone is closed in the journal as well; what is not stays open there, for the next attempt. `away` is asked for each that
    is undone through the engines of its targets.
    """
    lines = dict.fromkeys(intents, "")
    world = replace(world, recovering=True)

    async def undo_one(intent: FaultIntent) -> None:
        fault = HOLD if intent.type == HOLD.key else faults.get(intent.written)
        lines[intent.episode] = await _undo_and_say(intent, fault, world, journal, by, away=away)

    async with anyio.create_task_group() as group:
        for intent in intents.values():
            group.start_soon(undo_one, intent, name=f"undo {intent.episode}")
    return list(lines.values())


async def _undo_and_say(
    intent: FaultIntent,
    fault: Fault | None,
    world: World,
    journal: Journal,
    by: Literal["run", "recover"],
    *,
    away: Away,
) -> str:
    episode, gone = intent.episode, dict[str, str]()
    if fault is None or fault.key != intent.type:
        failure = f"the soak file has no {intent.type} fault named {intent.written}, so nothing here knows how to undo it"
        await record(
            journal,
            UndoFailed(episode=episode, attempt=1, error=failure, broken=still_broken(intent)),
        )
        truncated = ""
    else:
        if fault.undo_needs_engines:
            gone |= await away(intent)
        truncated = await _cut_short(fault, world.fleet, intent)
        failure = await undo_episode(fault, world, intent, journal, by, away=gone)
    if failure:
        return f"{episode}: cannot undo it: {failure}. {still_broken(intent)}"
    await record(journal, EpisodeClosed(episode=episode, recovered=None, truncated=truncated))
    of = ", ".join(target.unit for target in intent.targets) or "the system"
    return f"{episode}: undone ({intent.type} of {of})" + (f"; {truncated}" if truncated else "")


async def _cut_short(fault: Fault, fleet: Fleet, intent: FaultIntent) -> str:
    """Say which targets somebody else took away or replaced before they could be healed; empty if none.

    Only where the disturbance sits in the targets for a time. A target that has ended with the run is not known to the fleet.
    """
    if not (fault.in_targets and fault.hold):
        return ""
    found = []
    for target in intent.targets:
        if target.incarnation and target.unit in fleet.ids:
            try:
                seen = (await fleet.look(target.unit)).observed
            except EngineError:
                continue  # undo has more to say about that
            if seen.state is UnitState.ABSENT:
                found.append(f"{target.unit} vanished before undo")
            elif not fault.renews and not fault.is_in(seen.incarnation, target.incarnation):
                found.append(f"{target.unit} was replaced before undo")
    return "; ".join(found)
