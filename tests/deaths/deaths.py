"""One death of soakd among faults, and the inspection of what is left after it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from death_cases import CASES, Case

from supervisor.faults.registry import FAULTS
from supervisor.journal.events import EndReason, RunEnded, UndoFailed
from supervisor.journal.replay import replay
from supervisor.recover import read_past

PHASES = ("aim", "inject", "hold", "undo")
DYING = Path(__file__).with_name("dying.py")
MARK = "SOAKD_DEATHS"
DEADLINE = 90.0
"""Seconds from the start of a run to the end of its guardian."""
GONE = 10.0
"""Seconds that processes may take to leave the process table after they were ended."""


class World(Protocol):
    """Where units run and what faults act on. It lives as long as it takes, for one death after the other."""

    def soak(self, cases: dict[str, Case]) -> dict[str, Any]:
        """Return a soak file with these faults, each again and again."""

    def look(self) -> Any:
        """Return all that has to be afterwards as it was before."""


@dataclass
class Death:
    """What became of one."""

    both: bool
    phases: dict[str, str] = field(default_factory=dict)
    """In which phase each kind was."""
    problems: list[str] = field(default_factory=list)
    output: str = ""


def missing() -> str:
    """Say which kinds have no line in the table, or have one and are none; empty if all is well."""
    without, unknown = set(FAULTS.kinds) - set(CASES), set(CASES) - set(FAULTS.kinds)
    told = f"no line in death_cases.py for {', '.join(sorted(without))}; " if without else ""
    return told + (f"no kinds of fault: {', '.join(sorted(unknown))}" if unknown else "")


def units_of(kind: str) -> dict[str, str]:
    """Return the names of a kind's own units by what stands for them."""
    return {number: f"{kind.replace('_', '-')}-{number}" for number in ("one", "two")}


def entry(kind: str, case: Case) -> dict[str, Any]:
    """Return the fault's entry: again and again, as soon as it is over."""
    text = json.dumps(case.fault)
    for number, unit in units_of(kind).items():
        text = text.replace(f"{{{number}}}", unit)
    return {**json.loads(text), "every": "50ms"}


def soak_file(kinds: dict[str, Case], **more: Any) -> dict[str, Any]:
    """Return the part of a soak file that is the same in every world."""
    soak: dict[str, Any] = {
        "soak": f"deaths-{uuid.uuid4().hex[:8]}",
        "seed": 1,
        "faults": {kind.replace("_", "-"): entry(kind, case) for kind, case in kinds.items()},
        "steady_state": [{"command": "true"}],
        "limits": {"broker": "any"},
        **more,
    }
    for case in kinds.values():
        soak |= case.adds
    return soak


def die(
    world: World, kinds: Iterable[str], kind: str, phase: str, *, both: bool, rng: random.Random
) -> Death:
    """Run a soak with faults of these kinds, kill it in a phase of one of them, heal, and inspect what is left."""
    death, cases = Death(both), {name: CASES[name] for name in kinds}
    with tempfile.TemporaryDirectory(prefix="soakd-death-") as name:
        folder, mark = Path(name), uuid.uuid4().hex
        (folder / "soak.yaml").write_text(json.dumps(world.soak(cases)))
        when = {"kind": kind, "phase": phase, "nth": rng.randint(2, 4), "share": rng.random(), "both": both}
        env = os.environ | {
            "SOAKD_DEATH": json.dumps(when),
            "SOAKD_PHASES": str(folder / "phases"),
            "SOAKD_STATE_DIR": str(folder / "state"),
            MARK: mark,
        }
        before = world.look()
        _live_and_die(folder, env, death)
        if both and not death.problems:
            _recover(folder, env, death)
        death.phases = dict(_phases(folder / "phases", cases))
        death.problems += _inspect_journal(folder)
        death.problems += _inspect_processes(mark)
        if (folder / "broken").exists():
            death.problems.append("the file of the command is still there")
        if (after := world.look()) != before:
            death.problems.append(f"it is not as it was: {_difference(before, after)}")
        death.output = (folder / "output").read_text(errors="replace")[-4000:]
    return death


def _live_and_die(folder: Path, env: dict[str, str], death: Death) -> None:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", str(DYING), "run", "soak.yaml", "--run-dir", "runs"],
            cwd=folder,
            env=env,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        code = process.wait(DEADLINE)
    except BaseException as error:  # also where the proof itself is stopped: nothing of it goes on
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        death.problems.append(
            "it never came to its death: the phase was not reached, or the guardian does not end"
        )
        return
    wanted = {-9} if death.both else {1, 3}
    if code not in wanted:
        death.problems.append(f"exit code {code}, not one of {wanted}")


def _recover(folder: Path, env: dict[str, str], death: Death) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "recover", "soak.yaml"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    if done.returncode:
        death.problems.append(f"soakd recover: exit code {done.returncode}: {done.stderr}")


def _phases(file: Path, cases: Iterable[str]) -> Iterator[tuple[str, str]]:
    with suppress(OSError):
        for line in file.read_bytes().replace(b"\0", b"").decode().splitlines():
            if len(words := line.split()) == 2 and words[0] in cases:
                yield words[0], words[1]


def _inspect_journal(folder: Path) -> Iterator[str]:
    runs = list((folder / "runs").glob("deaths-*/2*"))
    if not runs:
        yield "it did not even begin"
        return
    past = read_past(runs[0])
    if past.open:
        yield f"not undone: {', '.join(past.open)}"
    events = [record.event for record in replay(runs[0])]
    yield from (f"undo failed: {e.episode}: {e.error}" for e in events if isinstance(e, UndoFailed))
    if not any(isinstance(event, RunEnded) and event.reason is EndReason.DIED for event in events):
        yield "it did not die"


def _inspect_processes(mark: str) -> list[str]:
    deadline = time.monotonic() + GONE
    while left := list(_marked(mark)):
        if time.monotonic() > deadline:
            return [f"processes are left: {left}"]
        time.sleep(0.05)
    return []


def _marked(mark: str) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    yield (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        return "; ".join(f"{key}: {_difference(before.get(key), after.get(key))}" for key in keys)
    return f"{before!r} became {after!r}"


@dataclass
class Proof:
    """Deaths counted by kind and phase, until each kind has had enough of them and each of its phases was aimed at."""

    counts: dict[str, Counter[str]]
    aimed: Counter[tuple[str, str]] = field(default_factory=Counter)

    def next(self, wanted: int, rng: random.Random) -> tuple[str, str] | None:
        """Return the kind and phase to aim at next, the rarest; None: each kind had `wanted` deaths, each phase its share."""
        targets = [(kind, phase) for kind in self.counts for phase in PHASES if _has(kind, phase)]
        least = min(self.aimed[target] for target in targets)
        if least < max(wanted // 20, 1):
            return rng.choice([target for target in targets if self.aimed[target] == least])
        short = [kind for kind, seen in self.counts.items() if sum(seen[phase] for phase in PHASES) < wanted]
        mine = [target for target in targets if target[0] in short]
        return min(mine, key=lambda target: self.aimed[target]) if mine else None

    def count(self, target: tuple[str, str], death: Death) -> None:
        self.aimed[target] += 1
        for kind, phase in death.phases.items():
            self.counts[kind][phase] += 1


def _has(kind: str, phase: str) -> bool:
    return phase != "hold" or "hold" in CASES[kind].fault
