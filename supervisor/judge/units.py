"""What became of the units: exits by cause, crashes by root cause, restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from supervisor.journal.events import Cause, UnitCrashed, UnitExited
from supervisor.judge.counting import CLASSES, OTHER, Moment, Some, slot

FILES: Final = 3
"""Crash files that are named for one root cause: the first ones, and the last one beside them."""


@dataclass(slots=True)
class CrashGroup:
    """Crashes of a unit with one signature."""

    signature: str
    how: str
    """How the first of them ended: its signal or exit code."""
    first: Moment
    last: Moment
    count: int = 0
    unexplained: int = 0
    files: list[str] = field(default_factory=list)
    """First crash files."""
    last_file: str = ""

    def add(self, event: UnitCrashed, moment: Moment) -> None:
        """Count one more."""
        self.count += 1
        self.unexplained += not event.episodes
        self.last = moment
        if event.file and len(self.files) < FILES:
            self.files.append(event.file)
        self.last_file = event.file or self.last_file


@dataclass(slots=True)
class UnitTotals:
    """One unit over the whole run."""

    name: str
    crashes: int = 0
    unexplained: int = 0
    """Crashes while no episode was open."""
    exits: dict[str, int] = field(default_factory=dict)
    """By cause."""
    restarts: int = 0
    given_up: str = ""
    """The intensity that was exceeded; empty: it was not."""
    uncaptured: Some = field(default_factory=Some)
    """Crashes whose evidence could not be written."""
    start_failed: Some = field(default_factory=Some)
    worst_downtime: float = 0.0
    groups: dict[str, CrashGroup] = field(default_factory=dict)
    """Crashes that a watchdog wrote a file for, by signature."""
    _exit: tuple[str, bool] | None = None
    """The last crash of which no `unit.crashed` is seen yet: its incarnation, and whether it counted as unexplained."""

    def exited(self, event: UnitExited, open_episodes: Sequence[str]) -> bool:
        """Count an exit and say whether it was a crash. A crash of a unit that has no watchdog is told by nothing else."""
        self.exits[event.cause] = self.exits.get(event.cause, 0) + 1
        if event.cause is Cause.CRASH:
            self.crashes += 1
            self.unexplained += not open_episodes
            self._exit = event.incarnation, not open_episodes
        return event.cause is Cause.CRASH

    def crashed(self, event: UnitCrashed, moment: Moment) -> bool:
        """Count a crash by its root cause and say whether it is news; mostly its exit, which comes first, has counted the crash."""
        incarnation, unexplained = self._exit or ("", False)
        if told := incarnation == event.incarnation:
            self.unexplained -= unexplained  # what the watchdog says below is the better knowledge
        else:
            self.crashes += 1
        self.unexplained += not event.episodes
        self._exit = None
        how = how_it_ended(event.code, event.signal, event.oom)
        signature = event.signature or how
        key = slot(self.groups, signature, CLASSES)
        group = self.groups.get(key)
        if group is None:
            name = signature if key != OTHER else OTHER
            group = self.groups[key] = CrashGroup(name, how, first=moment, last=moment)
        group.add(event, moment)
        if not event.captured:
            self.uncaptured.add(event.file or how)
        return not told


def how_it_ended(code: int | None, signal: str | None, oom: bool) -> str:
    """Write an exit in words: `exit code 1`, `SIGKILL (out of memory)`."""
    how = signal or ("unseen" if code is None else f"exit code {code}")
    return f"{how} (out of memory)" if oom else how
