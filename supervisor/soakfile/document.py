"""A YAML document as a tree in which every value knows its place. `reader` makes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.soakfile.errors import Path


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the file: line and column, both from 1, the column in characters."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


TOP: Final = Mark(1, 1)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is wrong at a place, found before the soak's model had a look."""

    mark: Mark
    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Node:
    """A value at its place."""

    mark: Mark
    span: tuple[int, int]
    """The characters of the text that write it, its anchor and tag included; for an alias those of what it stands for."""
    origin: Mark | None = field(default=None, kw_only=True)
    """For what came by an alias or a merge: where it was written. `mark` is then the place of the alias or the `<<`."""
    size: int = field(default=1, kw_only=True)
    """Values in it, itself included, aliases unfolded."""
    depth: int = field(default=1, kw_only=True)


@dataclass(frozen=True, slots=True)
class Scalar(Node):
    """A text, number, bool or null."""

    value: str | float | bool | None


@dataclass(frozen=True, slots=True)
class Listing(Node):
    """A list."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a mapping and its value."""

    mark: Mark
    """The key's place; for a merged key that of the `<<`."""
    node: Node


@dataclass(frozen=True, slots=True)
class Mapped(Node):
    """A mapping."""

    entries: dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is in the file."""

    mark: Mark = TOP
    key: Mark = TOP
    """The place of its key; of an item of a list its own."""
    origin: Mark | None = None
    """Where it was written, if it came by an alias or a merge."""


class Document:
    """A read document: its tree and the flaws that did not keep it from being read."""

    def __init__(self, root: Node | None, flaws: list[Flaw]) -> None:
        self.root, self.flaws = root, flaws

    def walk(self, path: Path) -> Iterator[tuple[Node, Place]]:
        """Yield each node on the way to a path with its place, the root first; ends early where the document does."""
        if self.root is None:
            return
        node, place = self.root, Place(self.root.mark, self.root.mark)
        yield node, place
        for step in path:
            if isinstance(node, Mapped) and step in node.entries:
                entry = node.entries[str(step)]
                node, key = entry.node, entry.mark
            elif isinstance(node, Listing) and isinstance(step, int) and 0 <= step < len(node.items):
                node = node.items[step]
                key = node.mark
            else:
                return
            if place.origin is None:
                place = Place(node.mark, key, node.origin)
            else:  # below an alias every place is the alias's
                place = Place(place.mark, place.mark, node.origin or node.mark)
            yield node, place

    def has(self, path: Path) -> bool:
        """Say whether there is a value at a path."""
        return sum(1 for _ in self.walk(path)) > len(path)


def describe(value: Any) -> str:
    """Say in words what a value is."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
        case dict():
            return "a mapping"
        case _:
            return "a list"
