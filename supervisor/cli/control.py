"""`soakd fault` and `soakd unit`: what an operator does to a run that goes on."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any, Final

from supervisor.cli.common import FAIL, OK, complain, importing

WHICH: Final = "which run: a soak file, a run directory, or http://HOST:PORT with SOAKD_CONTROL_TOKEN; left out: the run that goes on here"


def add_to(commands: Any) -> None:
    """Add the commands to the parser's."""
    fault = _group(commands, "fault", "List, pause, resume, inject and abort faults of a run that goes on.")
    listed = _add(
        fault, "list", "Show the faults, what is open, and which units are held.", "/faults", get=True
    )
    listed.add_argument("--json", action="store_true", help="print it as JSON")
    pause = _add(fault, "pause", "Let no fault come until `resume`; what is open is undone.", "/faults/pause")
    pause.add_argument(
        "--for", dest="seconds", metavar="TIME", help="for how long, such as 30m; left out: until resumed"
    )
    pause.add_argument("--finish", action="store_true", help="let what is open end by itself instead")
    _add(fault, "resume", "Let faults come again.", "/faults/resume")
    inject = _add(
        fault,
        "inject",
        "Inject a fault now, as an episode of the operator.",
        "/faults/inject",
        "NAME",
    )
    inject.set_defaults(field="fault")
    _add(fault, "abort", "Undo every episode that is open now.", "/faults/abort")
    unit = _group(commands, "unit", "Hold units of a run that goes on, and release them.")
    hold = _add(
        unit,
        "hold",
        "Take a unit over: it is not restarted, and no fault chooses it.",
        "/units/hold",
        "NAME",
    )
    which = hold.add_mutually_exclusive_group()
    which.add_argument("--down", dest="wanted", action="store_const", const="down", help="and stop it")
    which.add_argument(
        "--up", dest="wanted", action="store_const", const="up", help="and start it if it is down"
    )
    hold.set_defaults(field="unit")
    release = _add(unit, "release", "Give it back; what was taken down is started.", "/units/release", "NAME")
    release.set_defaults(field="unit")
    add_reload_to(commands)


def add_reload_to(commands: Any) -> None:
    """Add `soakd reload`."""
    text = "Read the soak file of a run again: what changed is taken, or refused with the reason."
    _add(commands, "reload", text, "/reload")


def _group(commands: Any, name: str, text: str) -> Any:
    group = commands.add_parser(name, description=text, help=text)
    return group.add_subparsers(dest="what", required=True)


def _add(
    group: Any, name: str, text: str, path: str, named: str | None = None, *, get: bool = False
) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = group.add_parser(name, description=text, help=text)
    if named:
        sub.add_argument(
            "named", metavar=named, help=f"the name of the {path.split('/')[1].removesuffix('s')}"
        )
    sub.add_argument("run", metavar="RUN", nargs="?", help=WHICH)
    sub.set_defaults(command=_ask, method="GET" if get else "POST", path=path)
    return sub


def _ask(arguments: argparse.Namespace) -> int:
    with importing():
        import anyio

        from supervisor.journal.runs import RunIndex, state_dir
        from supervisor.live.control import CannotControl, WrongWords, ask, way_to
        from supervisor.soakfile.errors import SoakFileError

    try:
        body = None if arguments.method == "GET" else _body(arguments)
        way = way_to(arguments.run, RunIndex(state_dir()), os.environ)
        answer = anyio.run(ask, way, arguments.method, arguments.path, body)
    except SoakFileError as error:
        return complain(*map(str, error.problems))
    except WrongWords as error:
        return complain(f"soakd: {error}")
    except CannotControl as error:
        return complain(f"soakd: {error}", code=FAIL)
    if "said" in answer:
        print(answer["said"])
    elif arguments.json:
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(_listed(answer)))
    return OK


def _body(arguments: argparse.Namespace) -> dict[str, Any]:
    given = vars(arguments)
    if (written := given.get("seconds")) is not None:
        from supervisor.live.control import WrongWords
        from supervisor.values import parse_duration

        try:
            known = parse_duration(written) > 0
        except ValueError as error:
            raise WrongWords(f'--for: {error}, found "{written}"') from error
        if not known:
            raise WrongWords(f"--for: expected more than 0, found {written}")
    body = {key: given[key] for key in ("seconds", "finish", "wanted") if given.get(key) is not None}
    return body | ({given["field"]: given["named"]} if "field" in given else {})


def _listed(answer: dict[str, Any]) -> Iterator[str]:
    from supervisor.values import format_duration

    if answer["paused"] is not False:
        left = (
            "until `soakd fault resume`"
            if answer["paused"] is None
            else f"for {format_duration(answer['paused'])}"
        )
        yield f"paused {left}"
    rows = [("fault", "kind", "state", "due", "episodes")]
    for one in answer["faults"]:
        due = "" if one["due"] is None else f"in {format_duration(one['due'])}" if one["due"] else "now"
        by_hand = f" and {one['by_hand']} by hand" if one["by_hand"] else ""
        rows.append((one["fault"], one["type"], one["state"], due, f"{one['episodes']}{by_hand}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for one in answer["open"]:
        yield f"{one['episode']} has been {one['stage']} for {format_duration(one['for'])} on {', '.join(one['targets']) or 'the system'}"
    for one in answer["broken"]:
        yield f"{one['episode']} could not be undone on {', '.join(one['targets']) or 'the system'}"
    for one in answer["held"]:
        yield f"{one['unit']} is held {one['desired']} by {one['by']} ({one['state']})"
