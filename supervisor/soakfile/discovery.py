"""The units that only their engines know: looked up before a run or a plan, and then held against the whole soak file once more."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

import anyio.to_thread
import structlog

from supervisor.engines.base import Engine, EngineError
from supervisor.soakfile.errors import Problem, SoakFileError
from supervisor.soakfile.load import Loaded

_log: Final = structlog.get_logger("soakd")


async def tidied(loaded: Loaded) -> Loaded:
    """Put back what dead runs have left on the soak's units; SoakFileError if an engine cannot look."""
    problems: list[Problem] = []
    for name, engine in loaded.soak.engines.items():
        try:
            if done := await engine.tidy(loaded.base):
                _log.warning("put back what a dead run has left", engine=name, done=done)
        except EngineError as error:
            problems.append(loaded.problem(("engines", name), str(error)))
    if problems:
        raise SoakFileError(problems)
    return loaded


async def discovered(loaded: Loaded) -> Loaded:
    """Return the soak file with the units that its engines find; touches nothing.

    SoakFileError if an engine cannot look, for units that go against its entry, and for all that means nothing now that they are known.
    """
    engines: dict[str, Engine] = {}
    problems: list[Problem] = []
    for name, engine in loaded.soak.engines.items():
        try:
            engines[name] = known = await engine.discover(loaded.base)
        except EngineError as error:
            problems.append(loaded.problem(("engines", name), str(error)))
        else:
            problems += (loaded.problem(("engines", name, *key), why) for key, why in known.refused())
    if problems:
        raise SoakFileError(problems)
    if engines == loaded.soak.engines:
        return loaded
    soak = loaded.soak.model_copy(update={"engines": engines})
    if problems := await anyio.to_thread.run_sync(partial(loaded.recheck, soak)):
        raise SoakFileError(problems)
    return replace(loaded, soak=soak)
