"""In which order units are brought up, and down again."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

import anyio

from supervisor.engines.base import EngineError

T = TypeVar("T")
After = Mapping[str, tuple[str, ...]]
"""For each unit those that must be ready before it."""


def check_order(after: After) -> None:
    """Raise EngineError if a unit comes after itself, or after one that is not there."""
    for unit, others in after.items():
        for other in others:
            if other not in after:
                raise EngineError(f"cannot start {unit} after {other}: there is no such unit")
    try:
        TopologicalSorter(after).prepare()
    except CycleError as error:
        circle = " after ".join(reversed(error.args[1]))
        raise EngineError(
            f"cannot order the start of units: {circle}; break the circle of `after`"
        ) from error


def reverse(after: After) -> After:
    """Return for each unit those that come after it."""
    return {unit: tuple(other for other, others in after.items() if unit in others) for unit in after}


async def in_order(after: After, act: Callable[[str], Coroutine[None, None, None]]) -> None:
    """Act on all units, on each once it is done for those before it; the first EngineError ends the rest and is raised as it is."""
    done = {unit: anyio.Event() for unit in after}

    async def act_in_turn(unit: str) -> None:
        for other in after[unit]:
            await done[other].wait()
        await act(unit)
        done[unit].set()

    await at_once(act_in_turn, after)


async def at_once(act: Callable[[T], Coroutine[None, None, object]], all_of: Iterable[T]) -> None:
    """Act on all at the same time; the first EngineError ends the rest and is raised as it is."""
    failed: BaseException | None = None
    try:
        async with anyio.create_task_group() as group:
            for one in all_of:
                group.start_soon(act, one)
    except* EngineError as errors:
        failed = errors
        while isinstance(failed, BaseExceptionGroup):
            failed = failed.exceptions[0]
    if failed:  # raised in `except*`, the Python of Debian 12 (3.11.2) would put it into a group again
        raise failed
