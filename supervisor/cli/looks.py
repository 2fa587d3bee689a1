"""`soakd health`, `watch` and `alive`: what looks at what is there now."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from supervisor.cli import report
from supervisor.cli.common import FAIL, OK, add, complain, importing, loop


def add_to(commands: Any) -> None:
    """Add the commands to the parser's."""
    text = "Look at the broker of a soak file: what is wrong, what it means, what to do."
    health = add(commands, "health", _health, text)
    health.add_argument(
        "file", metavar="FILE", type=Path, help="a soak file; only its broker section is used"
    )
    health.add_argument("--json", action="store_true", help="print all that was seen as JSON")
    watch = add(commands, "watch", _watch, "Show streams, entries, units, episodes and health, live.")
    watch.add_argument(
        "what",
        metavar="FILE or URL",
        nargs="?",
        help="a soak file: its run if one goes on here, else its broker; http://HOST:PORT: the endpoint of a run; "
        "nats://HOST:PORT: a broker alone, with SOAKD_NATS_USER and SOAKD_NATS_PASSWORD; left out: the run that goes on here",
    )
    watch.add_argument(
        "--bucket",
        action="append",
        default=[],
        metavar="NAME",
        help="a key-value bucket to watch, where there is no run; left out: those of the soak file, or the first ones there are",
    )
    watch.add_argument("--json", action="store_true", help="look once and print it as JSON")
    text = "Ask whether the daemon answers: a container's health check. Exit 0 it does, 1 it does not."
    add(commands, "alive", _alive, text)


def _health(arguments: argparse.Namespace) -> int:
    with importing():
        from rich.console import Console

        from supervisor.broker.health.document import document
        from supervisor.broker.health.findings import Health
        from supervisor.broker.health.once import look_once
        from supervisor.broker.health.text import report as as_text
        from supervisor.journal.runs import RunIndex, state_dir
        from supervisor.soakfile.errors import NotRunning, SoakFileError
        from supervisor.soakfile.running import load_running
        from supervisor.telemetry.logging import plain

    plain("critical")  # what connections meet is part of what is printed
    try:
        broker = load_running(arguments.file, RunIndex(state_dir())).soak.broker
    except SoakFileError as error:
        return complain(*map(str, error.problems))
    except NotRunning as error:
        return complain(f"soakd: {error}", code=FAIL)
    if broker is None:
        return complain(f"{arguments.file}: broker: there is no such section, so there is nothing to look at")
    diagnosis = loop(look_once(broker))
    if arguments.json:
        print(json.dumps(document(diagnosis), indent=2))
    else:
        Console().print(as_text(diagnosis))
    return OK if diagnosis.health is Health.HEALTHY else FAIL


def _watch(arguments: argparse.Namespace) -> int:
    with importing():
        from rich.console import Console

        from supervisor.journal.runs import RunIndex, state_dir
        from supervisor.live.layout import plain as as_text
        from supervisor.live.sources import CannotWatch
        from supervisor.live.target import target
        from supervisor.live.view import once, watch
        from supervisor.soakfile.errors import NotRunning, SoakFileError
        from supervisor.telemetry.logging import plain
        from supervisor.telemetry.output import Output

    plain("critical")  # what connections meet is part of what is shown
    try:
        opened = target(arguments.what, tuple(arguments.bucket), RunIndex(state_dir()), os.environ)
        if os.isatty(1) and not arguments.json:
            with Output() as output:
                loop(watch(opened, output))
            return OK
        scene, seen = loop(once(opened))
    except SoakFileError as error:
        return complain(*map(str, error.problems))
    except CannotWatch as error:
        return complain(f"soakd: {error}")
    except NotRunning as error:  # nothing is wrong with what was asked for: it is not there at present
        return complain(f"soakd: {error}", code=FAIL)
    if arguments.json:
        print(scene.model_dump_json(indent=2, by_alias=True))
    else:
        console = Console(width=report.columns())
        for line in as_text(scene, console.width):
            console.print(line, no_wrap=True, overflow="crop", highlight=False)
    return OK if seen else FAIL


def _alive(_: argparse.Namespace) -> int:
    from supervisor.journal.runs import RunIndex, state_dir
    from supervisor.live.alive import lifeless

    if wrong := lifeless(RunIndex(state_dir())):
        return complain(f"soakd: {wrong}", code=FAIL)
    return OK
