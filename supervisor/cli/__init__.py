"""The commands, and the only place that prints.

`run` and `demo` start the guardian, which starts `daemon`: so this page imports nothing but the standard library until it knows
which command it is. The guardian stays as small as it is safe.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import supervisor
from supervisor import guardian
from supervisor.cli import control, report

OK: Final = 0
FAIL: Final = 1
USAGE: Final = 2
CRASHED: Final = 70
"""EX_SOFTWARE of sysexits.h: the daemon itself is broken. No verdict's code, so the guardian heals."""


Command = Callable[[argparse.Namespace], int]


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

    def add(name: str, command: Command, text: str | None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, description=text, help=text) if text else commands.add_parser(name)
        sub.set_defaults(command=command)
        return sub

    run = add("run", _run, "Run a soak. Exit 0 pass, 1 fail, 2 it could not start, 3 inconclusive.")
    run.add_argument("file", metavar="FILE", help="the soak file")
    _run_options(run)
    demo = add(
        "demo",
        _demo,
        "Soak a small system of nats-servers and services on this machine, to see what it is like.",
    )
    _run_options(demo)
    check = add("check", _check, "Validate a soak file and print what it would do. Touches nothing.")
    check.add_argument("file", metavar="FILE", type=Path)
    check.add_argument("--seed", type=int, help="draw with this seed instead of the file's")
    recover = add("recover", _recover, "Undo every fault that a dead run left open, and end what it started.")
    recover.add_argument(
        "what", metavar="FILE or RUN_DIR", type=Path, help="a soak file, or one run's directory"
    )
    report.add_to(commands)
    crashes = add("crashes", _crashes, "Print the root causes of crashes, grouped.")
    crashes.add_argument("paths", metavar="RUN_DIR or FILE", type=Path, nargs="+")
    health = add(
        "health", _health, "Look at the broker of a soak file: what is wrong, what it means, what to do."
    )
    health.add_argument(
        "file", metavar="FILE", type=Path, help="a soak file; only its broker section is used"
    )
    health.add_argument("--json", action="store_true", help="print all that was seen as JSON")
    watch = add("watch", _watch, "Show streams, entries, units, episodes and health, live.")
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
    control.add_to(commands)
    add(
        "alive",
        _alive,
        "Ask whether the daemon answers: a container's health check. Exit 0 it does, 1 it does not.",
    )
    add("schema", _schema, "Print the JSON schema of the soak file, for editors.")
    daemon = add("daemon", _daemon, None)  # the guardian's business
    daemon.add_argument("--guardian-fd", type=int)
    daemon.add_argument("--report-fd", type=int)
    daemon.add_argument("file", type=Path)
    _run_options(daemon)
    return top


def _run_options(command: argparse.ArgumentParser) -> None:
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


def _complain(*lines: str) -> int:
    for line in lines:
        print(line, file=sys.stderr)
    return USAGE


# --- the daemon and its guardian ---------------------------------------------------------------------------------------


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
            outcome = _loop(run(options, output))
        except SoakFileError as error:
            return _complain(*map(str, error.problems))
        except CannotStart as error:
            return _complain(*(f"soakd: {line}" for line in error.lines))
        except Exception:  # noqa: BLE001  # the last place there is: said, and left to the guardian
            import traceback

            traceback.print_exc()
            return (
                _complain("soakd: this is a bug in soakd itself; the guardian now undoes what is open")
                and CRASHED
            )
        if output.isatty():
            output.write(report.conclusion(outcome.judgement, outcome.directory))
        return int(outcome.code)


def _loop(main: Coroutine[Any, Any, Any]) -> Any:
    import anyio

    async def await_it() -> Any:
        return await main

    return anyio.run(await_it, backend_options={"use_uvloop": True})


# --- the short commands ------------------------------------------------------------------------------------------------


def _check(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from supervisor.soakfile.discovery import discovered
    from supervisor.soakfile.errors import SoakFileError
    from supervisor.soakfile.load import load
    from supervisor.soakfile.plan import plan

    try:
        loaded = _loop(discovered(load(arguments.file, overrides={"seed": arguments.seed})))
    except SoakFileError as error:
        return _complain(*map(str, error.problems))
    Console().print(plan(loaded))
    return OK


def _recover(arguments: argparse.Namespace) -> int:
    from supervisor.recover import CannotRecover, recover_all
    from supervisor.soakfile.errors import SoakFileError
    from supervisor.telemetry.logging import plain

    plain()
    try:
        for line in _loop(recover_all(arguments.what)):
            print(line)
    except CannotRecover as error:
        for line in error.done:
            print(line)
        _complain(f"soakd: {error}")
        return FAIL
    except SoakFileError as error:
        _complain(*map(str, error.problems))
        return FAIL
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
            return _complain(f"soakd: cannot read {path}: there is no such file or run directory")
    groups = summarize(files)
    if not groups:
        print("no crashes")
    for group in groups:
        print(f"{group.count:5}  {', '.join(group.units)}: {group.signature}")
        print(f"       first {group.files[0]}" + (f", last {group.files[-1]}" if group.count > 1 else ""))
    return OK


def _health(arguments: argparse.Namespace) -> int:
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
        return _complain(*map(str, error.problems))
    except NotRunning as error:
        _complain(f"soakd: {error}")
        return FAIL
    if broker is None:
        return _complain(
            f"{arguments.file}: broker: there is no such section, so there is nothing to look at"
        )
    diagnosis = _loop(look_once(broker))
    if arguments.json:
        print(json.dumps(document(diagnosis), indent=2))
    else:
        Console().print(as_text(diagnosis))
    return OK if diagnosis.health is Health.HEALTHY else FAIL


def _watch(arguments: argparse.Namespace) -> int:
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
                _loop(watch(opened, output))
            return OK
        scene, seen = _loop(once(opened))
    except SoakFileError as error:
        return _complain(*map(str, error.problems))
    except CannotWatch as error:
        return _complain(f"soakd: {error}")
    except NotRunning as error:  # nothing is wrong with what was asked for: it is not there at present
        _complain(f"soakd: {error}")
        return FAIL
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
        _complain(f"soakd: {wrong}")
        return FAIL
    return OK


def _schema(_: argparse.Namespace) -> int:
    from supervisor.soakfile.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return OK
