"""`soakd run`, `soakd demo`, and the daemon that their guardian starts."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from supervisor import guardian
from supervisor.cli import report
from supervisor.cli.common import CRASHED, add, complain, importing, loop


def add_to(commands: Any) -> None:
    """Add the commands to the parser's."""
    run = add(commands, "run", _run, "Run a soak. Exit 0 pass, 1 fail, 2 it could not start, 3 inconclusive.")
    run.add_argument("file", metavar="FILE", help="the soak file")
    _options(run)
    text = "Soak a small system of nats-servers and services on this machine, to see what it is like."
    _options(add(commands, "demo", _demo, text))
    daemon = add(commands, "daemon", _daemon, None)  # the guardian's business
    daemon.add_argument("--guardian-fd", type=int)
    daemon.add_argument("--report-fd", type=int)
    daemon.add_argument("file", type=Path)
    _options(daemon)


def _options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--duration", type=_duration, metavar="TIME", help="how long, such as 10m; instead of the file's"
    )
    command.add_argument("--seed", type=int, help="the seed of every draw, instead of the file's")
    command.add_argument(
        "--run-dir", default="runs", metavar="DIR", help="where run directories go (default: runs)"
    )


def _duration(text: str) -> str:
    from supervisor.values import parse_duration

    try:
        if parse_duration(text) > 0:
            return text
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
    raise argparse.ArgumentTypeError(f"{text!r}: a soak needs some time")


def _guarded(arguments: argparse.Namespace, file: str) -> int:
    argv = [file, "--run-dir", arguments.run_dir]
    if arguments.duration is not None:
        argv += ["--duration", arguments.duration]
    if arguments.seed is not None:
        argv += ["--seed", str(arguments.seed)]
    return guardian.main(argv)


def _run(arguments: argparse.Namespace) -> int:
    return _guarded(arguments, arguments.file)


def _demo(arguments: argparse.Namespace) -> int:
    arguments.duration = arguments.duration or "2m"
    os.environ["SOAKD_PYTHON"] = sys.executable  # the demo's services are modules of ours
    return _guarded(arguments, str(Path(__file__).parents[1] / "demo" / "soak.yaml"))


def _daemon(arguments: argparse.Namespace) -> int:
    with importing():
        from supervisor.daemon import Options, run
        from supervisor.lifetimes import CannotStart
        from supervisor.soakfile.errors import SoakFileError
        from supervisor.telemetry.logging import plain
        from supervisor.telemetry.output import Output

    plain()
    options = Options(
        file=arguments.file,
        root=Path(arguments.run_dir),
        duration=arguments.duration,
        seed=arguments.seed,
        guardian=arguments.guardian_fd,
        report=arguments.report_fd,
    )
    with Output() as output:
        try:
            outcome = loop(run(options, output))
        except SoakFileError as error:
            return complain(*map(str, error.problems))
        except CannotStart as error:
            return complain(*(f"soakd: {line}" for line in error.lines))
        except Exception:  # noqa: BLE001  # the last place there is: said, and left to the guardian
            import traceback

            traceback.print_exc()
            wrong = "soakd: this is a bug in soakd itself; the guardian now undoes what is open"
            return complain(wrong, code=CRASHED)
        if output.isatty():
            output.write(report.conclusion(outcome.judgement, outcome.directory))
        return int(outcome.code)
