"""`soakd check`, `recover`, `crashes` and `schema`: what works on files, without a run that goes on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from supervisor.cli.common import FAIL, OK, add, complain, importing, loop


def add_to(commands: Any) -> None:
    """Add the commands to the parser's."""
    check = add(
        commands, "check", _check, "Validate a soak file and print what it would do. Touches nothing."
    )
    check.add_argument("file", metavar="FILE", type=Path)
    check.add_argument("--seed", type=int, help="draw with this seed instead of the file's")
    text = "Undo every fault that a dead run left open, and end what it started."
    recover = add(commands, "recover", _recover, text)
    recover.add_argument(
        "what", metavar="FILE or RUN_DIR", type=Path, help="a soak file, or one run's directory"
    )
    crashes = add(commands, "crashes", _crashes, "Print the root causes of crashes, grouped.")
    crashes.add_argument("paths", metavar="RUN_DIR or FILE", type=Path, nargs="+")
    add(commands, "schema", _schema, "Print the JSON schema of the soak file, for editors.")


def _check(arguments: argparse.Namespace) -> int:
    with importing():
        from rich.console import Console

        from supervisor.soakfile.discovery import discovered
        from supervisor.soakfile.errors import SoakFileError
        from supervisor.soakfile.load import load
        from supervisor.soakfile.plan import plan

    try:
        loaded = loop(discovered(load(arguments.file, overrides={"seed": arguments.seed})))
    except SoakFileError as error:
        return complain(*map(str, error.problems))
    Console().print(plan(loaded))
    return OK


def _recover(arguments: argparse.Namespace) -> int:
    with importing():
        from supervisor.abandoned import recover_all
        from supervisor.past import CannotRecover
        from supervisor.soakfile.errors import SoakFileError
        from supervisor.telemetry.logging import plain

    plain()
    try:
        for line in loop(recover_all(arguments.what)):
            print(line)
    except CannotRecover as error:
        for line in error.done:
            print(line)
        return complain(f"soakd: {error}", code=FAIL)
    except SoakFileError as error:
        return complain(*map(str, error.problems), code=FAIL)
    return OK


def _crashes(arguments: argparse.Namespace) -> int:
    from supervisor.watch.crashes import summarize

    files: list[Path] = []
    for path in arguments.paths:
        if path.is_dir():
            files += sorted(path.glob("*.crash.*.log"))
        elif path.is_file():
            files.append(path)
        else:
            return complain(f"soakd: cannot read {path}: there is no such file or run directory")
    groups = summarize(files)
    if not groups:
        print("no crashes")
    for group in groups:
        print(f"{group.count:5}  {', '.join(group.units)}: {group.signature}")
        print(f"       first {group.files[0]}" + (f", last {group.files[-1]}" if group.count > 1 else ""))
    return OK


def _schema(_: argparse.Namespace) -> int:
    from supervisor.soakfile.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return OK
