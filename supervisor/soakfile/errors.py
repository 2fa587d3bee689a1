"""What is wrong with a soak file, each thing with its place, all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Keys and list indexes from the top of the file to a value."""


def dotted(path: Path) -> str:
    """Write a path as a person would: `watchdogs[0].units[1]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def ways(path: Path) -> Iterator[Path]:
    """Yield a path and all paths above it, but the top."""
    return (path[:end] for end in range(len(path), 0, -1))


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong, at its place in the file."""

    file: str
    line: int
    """From 1; 0: not of a place in the file (the file itself, or an option of the command line)."""
    column: int
    """In characters, from 1."""
    path: str
    """Such as `watchdogs[0].units`; empty for the file as a whole."""
    message: str
    """What is wrong, what was expected, did you mean. Never a secret."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return ": ".join(part for part in (place, self.path, self.message) if part)


class SoakFileError(Exception):
    """A soak file that cannot be used; the text has one line for each problem, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: list[Problem] = sorted(set(problems))
        super().__init__("\n".join(map(str, self.problems)))


class NotRunning(Exception):  # noqa: N818  # what is the matter is in the name
    """The soak file's broker is embedded, and no run has one at present; the text says what to do."""
