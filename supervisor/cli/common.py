"""What the commands share: exit codes, complaints, the event loop, the options of a run."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

OK: Final = 0
FAIL: Final = 1
USAGE: Final = 2
CRASHED: Final = 70
"""EX_SOFTWARE of sysexits.h: the daemon itself is broken. No verdict's code, so the guardian heals."""

Command = Callable[[argparse.Namespace], int]


def add(commands: Any, name: str, command: Command, text: str | None) -> argparse.ArgumentParser:
    """Add one command to the parser's. Without a text it is nobody's but our own and not listed."""
    sub: argparse.ArgumentParser = (
        commands.add_parser(name, description=text, help=text) if text else commands.add_parser(name)
    )
    sub.set_defaults(command=command)
    return sub


def complain(*lines: str, code: int = USAGE) -> int:
    """Print what is wrong and return the exit code that says so."""
    for line in lines:
        print(line, file=sys.stderr)
    return code


def loop(main: Coroutine[Any, Any, Any]) -> Any:
    """Run `main` to its end on uvloop and return its result."""
    import anyio

    async def await_it() -> Any:
        return await main

    return anyio.run(await_it, backend_options={"use_uvloop": True})


@contextmanager
def importing() -> Iterator[None]:
    """Import what a command needs, while Python's garbage collector rests: what is imported stays, and looking at it takes a tenth longer."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def reading_much() -> None:
    """Have the collector look more rarely: a journal of days makes millions of objects, none of them in circles, and an eighth of the time went there."""
    gc.set_threshold(50_000, 20, 20)
