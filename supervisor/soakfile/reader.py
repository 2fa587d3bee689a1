"""YAML 1.2 text -> `Document`.

Built from ruamel.yaml's parse events, not its loader: only so has a merged key a place at all, is every duplicate key found and
not just the first, and is an alias bomb measured before anything unfolds it. Scalars follow YAML 1.2's core schema, so `on`,
`yes` and `12:30` are text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from supervisor.soakfile.document import (
    TOP,
    Document,
    Entry,
    Flaw,
    Listing,
    Mapped,
    Mark,
    Node,
    Scalar,
    describe,
)

MAX_DEPTH: Final = 40
"""A soak file has about eight levels; far more is a mistake or an attack, and would exhaust Python's stack further on."""
MAX_NODES: Final = 100_000
"""Values with aliases unfolded: ten thousand units with ten settings each."""

_NULL: Final = ("", "~", "null", "Null", "NULL")
_BOOL: Final = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INT: Final = re.compile(r"[-+]?[0-9]{1,100}|0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAGS: Final = (None, "!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "map", "seq")))


class Unreadable(Exception):  # noqa: N818  # what it says of the document
    """The text cannot be read any further; `flaws` has what was found until then, the reason last."""

    def __init__(self, flaws: list[Flaw]) -> None:
        super().__init__(flaws[-1].message)
        self.flaws = flaws


def read(text: str) -> Document:
    """Read one document; Unreadable if it is none."""
    builder = _Builder()
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except ReaderError as error:
        before = text[: error.position]
        mark = Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))
        code = ord(text[error.position])
        builder.stop(mark, f"cannot read the YAML: the character U+{code:04X} is not allowed")
    except MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        builder.stop(Mark(at.line + 1, at.column + 1) if at else TOP, _explain(error))
    except (ValueError, OverflowError):  # chr() of an escape such as "\UFFFFFFFF"
        builder.stop(builder.last, "cannot read the YAML: an escape in the text after this is no character")
    return Document(builder.root, builder.flaws)


def plain_value(text: str) -> str | float | bool | None:
    """Read an unquoted scalar by YAML 1.2's core schema."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _explain(error: MarkedYAMLError) -> str:
    """Say in one line why the YAML cannot be read, with the way out of the two commonest traps."""
    what = str(error.problem or error.context or "this is not YAML")
    if what.startswith("found character '\\t'"):
        return "cannot read the YAML: a tab stands where spaces are expected, indent with spaces"
    opened = error.context_mark
    if opened is None or "flow" not in (error.context or ""):
        return f"cannot read the YAML: {what}"
    brackets = f"inside the brackets that open at {opened.line + 1}:{opened.column + 1}"
    if what.endswith("got '{'"):
        return f'cannot read the YAML: quote ${{NAME}} as "${{NAME}}" {brackets}'
    return f"cannot read the YAML: {what} {brackets}"


@dataclass(frozen=True, slots=True)
class _Key:
    text: str
    mark: Mark
    merges: bool = False


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is still open."""

    event: MappingStartEvent | SequenceStartEvent
    mark: Mark
    mapping: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    merges: list[tuple[Mark, Node]] = field(default_factory=list)
    key: _Key | None = None

    @property
    def step(self) -> tuple[str | int, ...]:
        """The key or index that is being read now; nothing between two entries of a mapping."""
        if self.mapping:
            return (self.key.text,) if self.key else ()
        return (len(self.items),)


class _Builder:
    """Makes the tree from parse events, without recursion: how deep they nest is the file's to choose."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.flaws: list[Flaw] = []
        self.last = TOP
        self._frames: list[_Frame] = []
        self._anchors: dict[str, Node | None] = {}
        """None: the anchored value is still open."""
        self._documents = self._merged = 0

    def stop(self, mark: Mark, message: str) -> NoReturn:
        """End reading here."""
        raise Unreadable([*self.flaws, Flaw(mark, (), message)])

    def take(self, event: Event) -> None:
        """Take the next event."""
        self.last = mark = Mark(event.start_mark.line + 1, event.start_mark.column + 1)
        span = event.start_mark.index, event.end_mark.index
        match event:
            case DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self.stop(mark, "a second document begins here: a soak file is one document, split it")
            case ScalarEvent():
                self._add(Scalar(mark, span, self._scalar(event, mark)), event)
            case AliasEvent():
                self._add(self._alias(str(event.anchor), mark, span), event)
            case MappingStartEvent() | SequenceStartEvent():
                self._open(event, mark)
            case MappingEndEvent() | SequenceEndEvent():
                self._close(span[1])
            case _:
                pass

    def _flaw(self, mark: Mark, message: str, *key: str) -> None:
        path = (*(step for frame in self._frames for step in frame.step), *key)
        self.flaws.append(Flaw(mark, path, message))

    def _scalar(self, event: ScalarEvent, mark: Mark) -> str | float | bool | None:
        self._check_tag(event.tag, mark)
        text = str(event.value)
        return plain_value(text) if event.style is None and event.tag is None else text

    def _check_tag(self, tag: str | None, mark: Mark) -> None:
        if tag not in _TAGS:
            self._flaw(mark, f"the tag {tag} means nothing in a soak file, remove it")

    def _alias(self, name: str, mark: Mark, span: tuple[int, int]) -> Node:
        node = self._anchors.get(name)
        if node is None:
            inside = name in self._anchors
            why = "is used inside the value it stands for" if inside else f"has no &{name} before it"
            self._flaw(mark, f"*{name} {why}")
            return Scalar(mark, span, None)
        return replace(node, mark=mark, origin=node.origin or node.mark)

    def _open(self, event: MappingStartEvent | SequenceStartEvent, mark: Mark) -> None:
        if len(self._frames) >= MAX_DEPTH:
            self.stop(
                mark, f"more than {MAX_DEPTH} levels inside each other, a soak file needs fewer than ten"
            )
        self._check_tag(event.tag, mark)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._frames.append(_Frame(event, mark, isinstance(event, MappingStartEvent)))

    def _close(self, end: int) -> None:
        frame = self._frames[-1]
        self._merge(frame)
        self._frames.pop()
        children = [entry.node for entry in frame.entries.values()] if frame.mapping else frame.items
        size = 1 + sum(child.size for child in children)
        depth = 1 + max((child.depth for child in children), default=0)
        if size > MAX_NODES or depth + len(self._frames) > MAX_DEPTH:
            self.stop(frame.mark, "the aliases in this unfold to far more than a soak file can need")
        span = frame.event.start_mark.index, end
        if frame.mapping:
            self._add(Mapped(frame.mark, span, frame.entries, size=size, depth=depth), frame.event)
        else:
            self._add(Listing(frame.mark, span, tuple(frame.items), size=size, depth=depth), frame.event)

    def _add(self, node: Node, event: NodeEvent) -> None:
        """Put a finished value where it belongs."""
        if event.anchor is not None and not isinstance(event, AliasEvent):
            self._anchors[event.anchor] = node
        if not self._frames:
            self.root = node
            return
        frame = self._frames[-1]
        if not frame.mapping:
            frame.items.append(node)
        elif frame.key is None:
            frame.key = self._key(node, event)
        else:
            key, frame.key = frame.key, None
            if key.merges:
                frame.merges.append((key.mark, node))
            else:
                frame.entries.setdefault(key.text, Entry(key.mark, node))

    def _key(self, node: Node, event: NodeEvent) -> _Key:
        if not isinstance(node, Scalar):
            self._flaw(node.mark, "a key is a word, found a list or a mapping", "")
            return _Key("", node.mark)
        if not isinstance(node.value, str):
            text = str(getattr(event, "value", ""))
            self._flaw(node.mark, f"a key is text, found {describe(node.value)}: write it in quotes", text)
            return _Key(text, node.mark)
        frame = self._frames[-1]
        if node.value == "<<" and isinstance(event, ScalarEvent) and event.style is None:
            if frame.merges:
                self._flaw(node.mark, "there is a << here already: write <<: [*one, *two]", "<<")
            return _Key(node.value, node.mark, merges=True)
        if (first := frame.entries.get(node.value)) is not None:
            self._flaw(node.mark, f"this key is here twice, first at {first.mark}", node.value)
        return _Key(node.value, node.mark)

    def _merge(self, frame: _Frame) -> None:
        """Take over what `<<` brings, unless the mapping has the key itself; an earlier source wins."""
        for mark, node in frame.merges:
            for source in node.items if isinstance(node, Listing) else (node,):
                if not isinstance(source, Mapped):
                    self._flaw(mark, "<< takes a mapping or a list of mappings, such as <<: *name", "<<")
                    continue
                self._merged += len(source.entries)
                if self._merged > MAX_NODES:
                    self.stop(mark, "the merges unfold to far more than a soak file can need")
                for key, entry in source.entries.items():
                    moved = replace(entry.node, mark=mark, origin=entry.node.origin or entry.node.mark)
                    frame.entries.setdefault(key, Entry(mark, moved))
