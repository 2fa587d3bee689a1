"""One death of soakd among faults, and the inspection of what is left after it."""

from __future__ import annotations

import http.client
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from death_cases import CASES, Case

from supervisor.faults.registry import FAULTS
from supervisor.journal.events import EndReason, RunEnded, UndoFailed
from supervisor.journal.replay import replay
from supervisor.journal.runs import RunIndex
from supervisor.past import read_past
from supervisor.web.place import SOCKET

PHASES = ("aim", "inject", "hold", "undo")
DYING = Path(__file__).with_name("dying.py")
MARK = "SOAKD_DEATHS"
DEADLINE = 120.0
"""Seconds from the start of a run to the end of its guardian."""
GONE = 10.0
"""Seconds that processes may take to leave the process table after they were ended."""
CALM = "calm"
"""The unit that no fault disturbs, by which the steady state is judged: so nothing is waited for but the faults themselves."""
ASK = 0.3
"""Seconds that an operator holds a unit, and waits before asking again."""


class World(Protocol):
    """Where units run and what faults act on. It lives as long as it takes, for one death after the other."""

    def soak(self, cases: Mapping[str, Case]) -> dict[str, Any]:
        """Return a soak file with these faults, each again and again."""

    def look(self) -> Any:
        """Return all that has to be afterwards as it was before."""

    def dead(self) -> list[str]:
        """Say what is wrong once guardian and daemon are dead and nobody has healed yet; links have to relay."""


class Lane:
    """soakd ready to be born: one process, from which one run after the other is forked (`dying.py`)."""

    def __init__(self) -> None:
        self.mark, self._text = uuid.uuid4().hex, b""
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(DYING)],
            env=os.environ | {MARK: self.mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *argv: str, folder: Path, env: Mapping[str, str]) -> int | None:
        """Run soakd in a folder to its end; return its exit code, None if it took longer than `DEADLINE` and was ended."""
        task = {"argv": argv, "cwd": str(folder), "env": dict(env), "output": str(folder / "output")}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(task).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._line(DEADLINE)
        assert pid, "soakd was not even forked"
        if (code := self._line(DEADLINE)) is None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                if self._line(30) is not None:
                    break
        return code

    def _line(self, timeout: float) -> int | None:
        """Return the next number that it writes, None if that takes too long."""
        assert self._process.stdout
        deadline = time.monotonic() + timeout
        while b"\n" not in self._text:
            left = max(deadline - time.monotonic(), 0)
            if not select.select([self._process.stdout], [], [], left)[0]:
                return None
            more = os.read(self._process.stdout.fileno(), 100)
            assert more, "the process that soakd is forked from has ended"
            self._text += more
        line, _, self._text = self._text.partition(b"\n")
        return int(line)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            if end:
                end.close()

    def left(self) -> list[str]:
        """Say which processes of a run that is over are still there."""
        deadline = time.monotonic() + GONE
        while left := list(self._marked()):
            if time.monotonic() > deadline:
                return [f"processes are left: {left}"]
            time.sleep(0.05)
        return []

    def _marked(self) -> Iterator[str]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self._process.pid:
                with suppress(OSError):
                    if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                        yield (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


@dataclass
class Death:
    """How it died and what was found after it."""

    both: bool
    phases: dict[str, str] = field(default_factory=dict)
    """In which phase each fault was."""
    problems: list[str] = field(default_factory=list)
    output: str = ""
    took: float = 0.0


def missing() -> str:
    """Say which kinds have no line in the table, or have one and are none; empty if all is well."""
    without = set(FAULTS.kinds) - {case.kind for case in CASES.values()}
    return f"no line in death_cases.py for {', '.join(sorted(without))}" if without else ""


def name_of(label: str) -> str:
    """Return how the fault is called in the soak file."""
    return label.replace("_", "-")


def units_of(label: str) -> dict[str, str]:
    """Return the names of a fault's own units by what stands for them."""
    return {number: f"{name_of(label)}-{number}" for number in CASES[label].units}


def entry(label: str, case: Case, places: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fault's entry: again and again, as soon as it is over; or, where an operator asks for it, never by itself."""
    text = json.dumps(case.fault)
    for mark, value in {**units_of(label), **places}.items():
        text = text.replace(f'"{{{mark}}}"', json.dumps(value))
    return {**json.loads(text), **({"at": ["9999h"]} if case.asked else {"every": "50ms"})}


def soak_file(cases: Mapping[str, Case], places: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the part of a soak file that is the same in every world. `places`: what stands for marks such as `{data}`."""
    soak: dict[str, Any] = {
        "soak": f"deaths-{uuid.uuid4().hex[:8]}",
        "seed": uuid.uuid4().int % 2**31,
        "faults": {
            name_of(label): entry(label, case, places)
            for label, case in cases.items()
            if case.asked != "hold"
        },
        "steady_state": [{"unit": CALM}],
        "limits": {"broker": "any"},
        **more,
    }
    for case in cases.values():
        soak |= case.adds
    return soak


def die(
    world: World,
    lane: Lane,
    labels: Iterable[str],
    target: tuple[str, str],
    *,
    both: bool,
    rng: random.Random,
    before: Any = None,
) -> Death:
    """Run a soak with these faults, kill it in a phase of one of them, heal, and inspect what is left.

    `target`: which, and the phase. `before`: what was seen of the world at first, if it was looked at.
    """
    death, cases, began = Death(both), {label: CASES[label] for label in labels}, time.monotonic()
    names = {name_of(label): label for label in cases}
    before = world.look() if before is None else before
    with tempfile.TemporaryDirectory(prefix="d", dir=tempfile.gettempdir()) as place:
        folder = Path(place)
        soak = world.soak(cases)
        (folder / "soak.yaml").write_text(json.dumps(soak))
        when = {
            "names": list(names),
            "name": name_of(target[0]),
            "phase": target[1],
            "nth": rng.randint(2, 3),
            "share": rng.random(),
            "both": both,
        }
        env = {
            "SOAKD_DEATH": json.dumps(when),
            "SOAKD_PHASES": str(folder / "phases"),
            "SOAKD_STATE_DIR": str(folder / "state"),
        }
        with _operator(folder, world, cases, soak):
            code = lane.run("run", "soak.yaml", "--run-dir", "runs", folder=folder, env=env)
        death.phases = {names[name]: phase for name, phase in _phases(folder / "phases", names)}
        wanted = {-9} if both else {1, 3}
        if code is None:
            death.problems.append(
                "it never came to its death: the phase was not reached, or the guardian does not end"
            )
        elif code not in wanted:
            death.problems.append(f"exit code {code}, not one of {wanted}")
        elif both:
            death.problems += _wait_until_dead(folder)
            death.problems += world.dead()
            if code := lane.run("recover", "soak.yaml", folder=folder, env=env):
                death.problems.append(f"soakd recover: exit code {code}")
        death.problems += _inspect_journal(folder)
        death.problems += lane.left()
        death.problems += [
            f"the file of a command is still there: {name}"
            for name in ("broken", "damaged")
            if (folder / name).exists()
        ]
        if (after := world.look()) != before:
            death.problems.append(f"it is not as it was: {_difference(before, after)}")
        if (
            death.problems
        ):  # the next one shall find it as it was, and it is good to know whether it can be mended
            again = lane.run("recover", "soak.yaml", folder=folder, env=env)
            mended = again == 0 and world.look() == before
            death.problems.append(f"one more soakd recover mends {'it' if mended else 'nothing'}")
        with suppress(OSError):
            death.output = (folder / "output").read_text(errors="replace")[-4000:]
    death.took = time.monotonic() - began
    return death


# --- the operator ----------------------------------------------------------------------------------------------------


@contextmanager
def _operator(
    folder: Path, world: World, cases: Mapping[str, Case], soak: Mapping[str, Any]
) -> Iterator[None]:
    """Ask for what is done by hand, again and again, while soakd lives."""
    over = threading.Event()
    renamed = getattr(world, "renamed", lambda name: name)

    def work(label: str, case: Case) -> None:
        while not over.wait(ASK):
            with suppress(OSError, http.client.HTTPException):
                if case.asked == "inject":
                    _ask(folder, "faults/inject", {"fault": name_of(label)})
                else:
                    unit = renamed(units_of(label)["one"])
                    _ask(folder, "units/hold", {"unit": unit, "wanted": "down"})
                    over.wait(ASK)
                    _ask(folder, "units/release", {"unit": unit})

    threads = [threading.Thread(target=work, args=one, daemon=True) for one in cases.items() if one[1].asked]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(DEADLINE)


def _ask(folder: Path, what: str, body: Mapping[str, Any]) -> None:
    """Ask the run of a folder; whatever it answers. OSError if nobody is there."""
    found = next(iter(folder.glob(f"runs/*/2*/{SOCKET}")), None)
    if found is None:
        return
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(DEADLINE)
        end.connect(str(found))
        connection = http.client.HTTPConnection("localhost")
        connection.sock = end
        connection.request("POST", f"/{what}", json.dumps(body), {"Content-Type": "application/json"})
        connection.getresponse().read()


# --- the inspection --------------------------------------------------------------------------------------------------


def _phases(file: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    with suppress(OSError):
        for line in file.read_bytes().replace(b"\0", b"").decode().splitlines():
            if len(words := line.split()) == 2 and words[0] in names:
                yield words[0], words[1]


def _wait_until_dead(folder: Path) -> list[str]:
    """Wait for the daemon, which kills itself a moment after its guardian: healing would leave it alone as long as it lives."""
    index, deadline = RunIndex(folder / "state"), time.monotonic() + GONE
    while living := index.living():
        if time.monotonic() > deadline:
            return [f"it does not die: {living}"]
        time.sleep(0.01)
    return []


def _inspect_journal(folder: Path) -> Iterator[str]:
    runs = list((folder / "runs").glob("deaths-*/2*"))
    if not runs:
        yield "it did not even begin"
        return
    open_, events = read_past(runs[0]).open, [record.event for record in replay(runs[0])]
    failed = {event.episode: event.error for event in events if isinstance(event, UndoFailed)}
    yield from (f"not undone: {episode}: {failed.get(episode, 'never tried')}" for episode in open_)
    if not any(isinstance(event, RunEnded) and event.reason is EndReason.DIED for event in events):
        yield "it did not die"


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        return "; ".join(f"{key}: {_difference(before.get(key), after.get(key))}" for key in keys)
    return f"{before!r} became {after!r}"


# --- how many of them ------------------------------------------------------------------------------------------------


class Proof:
    """Deaths counted by fault and phase, until each has had enough of them and each of its phases was hit."""

    def __init__(self, labels: Iterable[str], counts: Mapping[str, Counter[str]]) -> None:
        self.counts = {label: Counter(counts.get(label, ())) for label in labels}
        self._aimed: Counter[tuple[str, str]] = Counter()

    def next(self, wanted: int, rng: random.Random) -> tuple[str, str] | None:
        """Return what to aim at next: a phase that was hit too rarely, then whatever died too rarely. None: that was enough."""
        least = max(wanted // 20, 1)
        targets = [(label, phase) for label in self.counts for phase in PHASES if CASES[label].has(phase)]
        rare = [
            (label, phase)
            for label, phase in targets
            if self.counts[label][phase] < least and self._aimed[label, phase] < 3 * least
        ]
        short = [label for label, seen in self.counts.items() if deaths(seen) < wanted]
        mine = rare or [target for target in targets if target[0] in short]
        if not mine:
            return None
        fewest = min(self._aimed[target] for target in mine)
        target = rng.choice([target for target in mine if self._aimed[target] == fewest])
        self._aimed[target] += 1
        return target

    def count(self, phases: Mapping[str, str]) -> None:
        for label, phase in phases.items():
            self.counts[label][phase] += 1


def deaths(seen: Mapping[str, int]) -> int:
    """Return how many deaths of a fault's counts were in one of its phases."""
    return sum(seen.get(phase, 0) for phase in PHASES)
