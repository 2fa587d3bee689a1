"""The commands, and the only place that prints.

`run` and `demo` start the guardian, which starts `daemon`: so this page and its neighbours import nothing but the standard library
until it is known which command it is. The guardian stays as small as it is safe.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import supervisor
from supervisor.cli import control, files, looks, report, runs
from supervisor.cli.common import OK, Command


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = parser().parse_args(argv)
    command: Command = arguments.command
    try:
        return command(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `soakd crashes ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="soakd",
        description="Soak a NATS-based system: keep it under load and fault, and judge what happened.",
    )
    top.add_argument("--version", action="version", version=f"soakd {supervisor.__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for page in (runs, files, report, looks, control):
        page.add_to(commands)
    return top
