"""The commands of `on:`: what the user wants run when a soak has failed, or at its end in any case."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Final, Literal

import anyio

from supervisor.engines.program import run_program
from supervisor.journal.base import Journal
from supervisor.journal.events import HookRan
from supervisor.soak import Hook, Soak

OUTPUT: Final = 4000
"""Characters of a command's output that are kept."""


async def run_hooks(soak: Soak, verdict: str, directory: Path, base: Path, journal: Journal) -> None:
    """Run `on.fail` after a fail and `on.end` in any case; they are told `SOAKD_VERDICT` and `SOAKD_RUN_DIR`."""
    environment = {**os.environ, "SOAKD_VERDICT": verdict, "SOAKD_RUN_DIR": str(directory)}
    if soak.on.fail is not None and verdict == "fail":
        journal.emit(await _run("fail", soak.on.fail, environment, base))
    if soak.on.end is not None:
        journal.emit(await _run("end", soak.on.end, environment, base))


async def _run(on: Literal["fail", "end"], hook: Hook, environment: dict[str, str], base: Path) -> HookRan:
    output = bytearray()
    written = hook.command if isinstance(hook.command, str) else shlex.join(hook.command)
    try:
        ended = await run_program(
            hook.argv,
            cwd=base,
            env=environment,
            output=output.extend,
            timeout=hook.timeout,
            stop=anyio.Event(),
        )
    except OSError as error:
        why = error.strerror or str(error)
        return HookRan(on=on, command=written, status="cannot be started", output=why)
    status = ended.status if ended.why == "exit" else ended.why
    return HookRan(on=on, command=written, status=status, output=output[-OUTPUT:].decode(errors="replace"))
