"""Stack traces in the lines of a log: what was raised first, and where in the program itself.

Within a chain of exceptions the root is the one that was raised first: what came later was raised while handling it. Cancellation
is no cause, it is how a timeout is delivered. The readers know Python (chains and exception groups), Go, Rust, the JVM, .NET and
Node.js, and the fatal lines of nats-server. Each takes the last trace of its kind; a tail may begin in the middle of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Final

Lines = Sequence[str]


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause in a log."""

    line: int
    """Index of the line that names it."""
    kind: str
    """The exception's type or the like; kept as it is when messages are made stable."""
    message: str
    where: str = ""
    """File and function of the program itself, as far as they are known."""


# --- Python ------------------------------------------------------------------------------------------------------------

_TRACEBACK: Final = "Traceback (most recent call last):"
_FRAME: Final = re.compile(r'  File "(?P<file>.*)", line \d+(?:, in (?P<function>.+))?')
_LIBRARY: Final = re.compile(r"/(?:site|dist)-packages/|/lib/python3|<frozen |^<")
_LINKS: Final = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
_GROUP: Final = re.compile(r"\(\d+ sub-exceptions?\)$")
_ENDS: Final = (
    *("(most recent call last):", "(most recent call first):", "Call stack:"),
    *_LINKS,
)
"""How lines end after which nothing of the traceback before them comes."""
_SURELY: Final = re.compile(
    r"(?:(?:[\w<>]+\.)+[A-Z]\w*|\w*(?:Error|Exception|Exit|Interrupt|Iteration|Group|Warning))(?:: |:?$)"
)
"""An exception's line, by its module or by what names of exceptions end with."""
_PERHAPS: Final = re.compile(
    r"(?:(?!(?:[A-Z]+|Info|Debug|Warn|Warning|Error|Fatal)\b)[A-Z]\w*|(?:\w+\.)+\w+)(?:: |:?$)"
)
"""An exception's line, by the form that all of them have; that of levels of log lines is left out."""
_BETWEEN: Final = 20
"""Lines of something else, one after the other, that may come within a traceback: output that another stream or thread writes meanwhile."""
_SIBLING: Final = re.compile(r"\+-+ (?:\d+|\.\.\.) -+$")


@dataclass(frozen=True, slots=True)
class _Traceback:
    begin: int
    end: int
    """Index of the exception's line."""
    exception: str
    frames: tuple[tuple[str, str], ...]
    """File and function, outermost first."""

    @property
    def cause(self) -> bool:
        name = self.exception.partition(":")[0].rpartition(".")[2]
        return not _GROUP.search(self.exception) and name != "CancelledError"


def _python(lines: Lines) -> Finding | None:
    blocks = list(_tracebacks(lines))
    if not blocks:
        return None
    first = len(blocks) - 1
    while first and _linked(lines, blocks[first - 1], blocks[first]):
        first -= 1
    chain = blocks[first:]
    root = next((block for block in chain if block.cause), chain[-1])
    after = chain[chain.index(root) :]
    where = next(filter(None, (place(block.frames) for block in after)), "")
    kind, _, message = root.exception.partition(": ")
    return Finding(chain[-1].end, kind, message, where)


def place(frames: Sequence[tuple[str, str]]) -> str:
    """Return the innermost of some Python frames (file and function) that is the program's own, in words."""
    own = [(file, function) for file, function in frames if not _LIBRARY.search(file)]
    return f"{_base(own[-1][0])} in {own[-1][1] or '<module>'}" if own else ""


def _linked(lines: Lines, before: _Traceback, after: _Traceback) -> bool:
    """Say whether two tracebacks belong to one chain, or to one group."""
    between = lines[before.end + 1 : after.begin]
    return any(line.endswith(_LINKS) or _SIBLING.search(line) for line in between)


def _tracebacks(lines: Lines) -> Iterator[_Traceback]:
    for begin, line in enumerate(lines):
        if line.endswith(_TRACEBACK) and (block := _traceback(lines, begin)):
            yield block


def _traceback(lines: Lines, begin: int) -> _Traceback | None:
    """Read one; its lines may be indented, as in a group, or carry a prefix as wide as the head's, as in the journal of systemd."""
    if begin + 1 >= len(lines):
        return None
    width = len(lines[begin]) - len(_TRACEBACK)
    if lines[begin].endswith("Exception Group " + _TRACEBACK):
        width -= len("Exception Group ")
    if not any(line[width:].startswith("  File ") for line in lines[begin + 1 : begin + 1 + _BETWEEN]):
        width = 0
    frames: list[tuple[str, str]] = []
    others: list[int] = []
    for index in range(begin + 1, len(lines)):
        text = lines[index][width:]
        if frame := _FRAME.match(text):
            frames.append((frame["file"], frame["function"] or ""))
            others.clear()  # what came in between was no end
        elif _ends(lines[index]) or len(others) > _BETWEEN:
            break
        elif text and not text.startswith("  "):
            others.append(index)
    if not frames or not others:
        return None
    end = _exception_line([lines[index][width:] for index in others])
    return _Traceback(begin, others[end], lines[others[end]][width:], tuple(frames))


def _ends(line: str) -> bool:
    """Say whether no line of the traceback can come after this one."""
    return line.endswith(_ENDS) or bool(_SIBLING.search(line))


def _exception_line(texts: Sequence[str]) -> int:
    """Return which of the lines after the last frame names the exception: the first, unless that has another form and one of the next has not."""
    for form in (_SURELY, _PERHAPS):
        if found := [index for index, text in enumerate(texts) if form.match(text)]:
            return found[0]
    return 0


# --- Go and nats-server ------------------------------------------------------------------------------------------------

_PANIC: Final = ("panic: ", "fatal error: ")
_RUNTIME: Final = ("runtime.", "panic(", "testing.", "log.", "created by ", "\t", "runtime/")
_FATAL: Final = re.compile(r"^\[\d+\] .*\[FTL\] (?P<message>.*)$")


def _go(lines: Lines) -> Finding | None:
    for index in range(len(lines) - 1, -1, -1):
        if not lines[index].startswith(_PANIC):
            continue
        near = range(index, min(index + 20, len(lines)))
        head = next((n for n in near if lines[n].startswith("goroutine ") and lines[n].endswith("]:")), None)
        if head is not None:
            kind, _, message = lines[index].partition(": ")
            return Finding(head, kind, message.partition(" [recovered")[0], _go_place(lines, head + 1))
    return None


def _go_place(lines: Lines, begin: int) -> str:
    """Return the first frame of the program below the last `panic(`: those above it are deferred calls."""
    end = next((index for index in range(begin, len(lines)) if not lines[index]), len(lines))
    panics = [index for index in range(begin, end) if lines[index].startswith("panic(")]
    for index in range(panics[-1] if panics else begin, end - 1):
        if not lines[index].startswith(_RUNTIME):
            file = lines[index + 1].strip().partition(":")[0]
            return f"{_base(file)} in {lines[index].rpartition('(')[0].rpartition('/')[2]}"
    return ""


def _nats(lines: Lines) -> Finding | None:
    for index in range(len(lines) - 1, -1, -1):
        if fatal := _FATAL.match(lines[index]):
            return Finding(index, "", f"[FTL] {fatal['message']}")
    return None


# --- Rust --------------------------------------------------------------------------------------------------------------

_PANICKED: Final = " panicked at "


def _rust(lines: Lines) -> Finding | None:
    """Return the last panic; one about a poisoned lock only tells that another came before it."""
    last: Finding | None = None
    for index, line in enumerate(lines):
        if _PANICKED not in line or not line.lstrip().startswith("thread '"):
            continue
        text = line.partition(_PANICKED)[2]
        if text.startswith("'"):  # before Rust 1.73 the message stood here
            message, _, place = text[1:].rpartition("', ")
        else:
            message, place = lines[index + 1] if index + 1 < len(lines) else "", text
        if last and "PoisonError" in message:
            last = replace(last, line=index)
        else:
            last = Finding(index, "panic", message, _base(place.partition(":")[0]))
    return last


# --- JVM, .NET, Node.js ------------------------------------------------------------------------------------------------

_NAMED: Final = re.compile(r"(?P<kind>[A-Za-z_$][\w$.]*)(?:: (?P<message>.*))?$")
_BEFORE: Final = ("Caused by: ", "[cause]: ", "---> ", "Uncaught ", "Unhandled exception. ")
_CAUSES: Final = _BEFORE[:3]
_PLATFORM: Final = re.compile(
    r"(?:[\w.]+/)?(?:java|javax|jdk|sun|kotlin|scala|System|Microsoft)\.|node:|\[eval\]"
)


def _thrown(lines: Lines) -> Finding | None:
    """Return the last cause: in these languages it is printed last. Its place is that of the innermost frame of the program."""
    runs = [index for index in range(1, len(lines)) if _is_at(lines[index]) and _head(lines[index - 1])]
    if not runs or not (thrown := _head(lines[runs[-1] - 1])):
        return None
    where = ""
    for begin in reversed(runs):
        if (where := _at_place(lines, begin)) or not lines[begin - 1].lstrip().startswith(_CAUSES):
            break
    return Finding(runs[-1] - 1, thrown["kind"], thrown["message"] or "", where)


def _is_at(line: str) -> bool:
    return line[:1].isspace() and line.lstrip().startswith("at ") and (line[-1] in "){" or line[-1].isdigit())


def _head(line: str) -> re.Match[str] | None:
    """Read the line above the frames, which names the exception."""
    text = line.strip()
    if text.startswith('Exception in thread "'):
        text = text[len('Exception in thread "') :].partition('" ')[2]
    while before := next((before for before in _BEFORE if text.startswith(before)), None):
        text = text.removeprefix(before)
    return None if text.startswith(("at ", "Suppressed: ")) else _NAMED.match(text)


def _at_place(lines: Lines, begin: int) -> str:
    for line in lines[begin:]:
        if not _is_at(line):
            break
        frame, _, source = (
            line.strip().removeprefix("at ").rstrip(" {").partition(" (" if " (" in line else "(")
        )
        if _PLATFORM.match(frame) or _PLATFORM.match(source):
            continue
        file, _, _ = source.rstrip(")").partition(":")
        return f"{_base(file)} in {frame}" if file else _base(frame.partition(":")[0])
    return ""


def _base(file: str) -> str:
    """Return the file's name, with its folder where many files have that name."""
    path = PurePath(file)
    return (
        "/".join(path.parts[-2:])
        if path.stem in {"__init__", "__main__", "index", "mod", "main"}
        else path.name
    )


_LOGGED: Final = re.compile(
    r"\[?(?:\d{4}[-/]\d\d[-/]\d\d|\d\d:\d\d:\d\d)|[\[(<]?(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR)\b|\{.*\}$|(?:time|ts|level)="
)
"""How the lines of loggers begin: with a time, a level, or as an object of JSON."""


AS_THEY_ARE: Final = (_python, _nats)
BY_THEMSELVES: Final = (_go, _rust, _thrown)
"""Readers that go from line to line: for them what loggers wrote in between is left out."""


def last_trace(lines: Lines) -> Finding | None:
    """Return the root cause of the last stack trace, None without any."""
    found = [finding for reader in AS_THEY_ARE if (finding := reader(lines))]
    kept = [index for index, line in enumerate(lines) if not _LOGGED.match(line)]
    left = [lines[index] for index in kept]
    found += [
        replace(finding, line=kept[finding.line]) for reader in BY_THEMSELVES if (finding := reader(left))
    ]
    return max(found, key=lambda finding: finding.line) if found else None
