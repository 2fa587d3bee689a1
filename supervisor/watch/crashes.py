"""Crash files: the header, the signature that crashes are grouped by, and the summary over many of them.

A signature is the root cause of a log's tail without what differs from one crash to the next: times, ids, addresses, numbers.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from supervisor.journal.events import UnitCrashed
from supervisor.watch.causes import find

TAIL: Final = 128_000
"""Bytes at the end of a log in which the cause is looked for; a trace of a thousand frames is shorter."""
LINES: Final = 5_000
"""The same in lines."""
LONGEST: Final = 200
"""Characters of a signature's message; a cause that needs more is not a class of crashes."""

CONSIDERED: Final = 2_000
"""Characters of a message that are looked at."""

_MAGIC: Final = "# soakd crash file 1"
_HEADER: Final = 64_000
"""Bytes in which a header ends; episodes are the only field that grows."""
_NAME: Final = re.compile(r"(?P<unit>.+?)\.crash\.")

# --- the signature -----------------------------------------------------------------------------------------------------

_ANSI: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_PREFIX: Final = re.compile(
    r"^(?:[\w.-]{1,80} +\| ?)?(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z (?:std(?:out|err) [FP] )?)?"
)
"""What `docker compose logs`, `docker logs -t` and container runtimes put before a line."""

_VARYING: Final = {
    "keep": r"(?:[Ee]rrno|os error|err_code|[Cc]ode|[Ss]tatus|[Ss]ignal|exit)[ =:\"']{1,3}\d{1,6}\b",
    "time": r"\d{4}[-/]\d\d[-/]\d\d(?:[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?"
    r"|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d\d? \d\d:\d\d:\d\d|\b\d\d:\d\d:\d\d(?:[.,]\d+)?",
    "id": r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b|\b_INBOX\.[\w.]+"
    r"|\b(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{7,}\b"
    r"|\b(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{16,}\b",
    "hex": r"\b0[xX][0-9a-fA-F]+\b",
    "tmp": r"(?<![\w.])/(?:tmp|var/tmp|dev/shm|var/folders|run/user)/[^\s\"'`,;:()\[\]{}]*",
    "n": r"(?<![A-Za-z0-9])\d+(?:[.,:]\d+)*|(?<=[A-Za-z])\d{3,}",
}
"""What differs from one crash to the next, by the name that replaces it; `keep` stays: codes tell causes apart."""
_VARIES: Final = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _VARYING.items()))


def signature(tail: bytes) -> str:
    """Return the root cause that the end of a log tells of, in one stable line; empty if it says nothing at all."""
    text = _ANSI.sub("", tail[-TAIL:].decode(errors="replace"))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[-LINES:]
    found = find([_PREFIX.sub("", line.rstrip(), count=1) for line in lines])
    if found is None:
        return ""
    message = stable(found.message[:CONSIDERED])
    if len(message) > LONGEST:
        message = message[: LONGEST - 1] + "…"
    kind = _printable(found.kind)[:LONGEST]
    where = f" [{_printable(found.where)[:LONGEST]}]" if found.where else ""
    return (f"{kind}: {message}" if kind and message else kind or message) + where


def stable(message: str) -> str:
    """Replace what differs between two occurrences of the same thing."""
    return " ".join(_printable(_VARIES.sub(_placeholder, message)).removeprefix("<time>").split())


def _placeholder(match: re.Match[str]) -> str:
    if match.lastgroup == "keep":
        return match[0]
    if match.lastgroup == "tmp":
        root, _, rest = match[0][1:].partition("/")
        name = rest.rpartition("/")[2] if "/" in rest else ""
        return f"/{root}/<tmp>/{stable(name)}" if name else f"/{root}/<tmp>"
    return f"<{match.lastgroup}>"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def how_it_ended(code: int | None, signal: str | None, *, oom: bool) -> str:
    """Write an exit in words: `exit code 1`, `SIGKILL (out of memory)`."""
    how = signal or ("unseen" if code is None else f"exit code {code}")
    return f"{how} (out of memory)" if oom else how


# --- crash files -------------------------------------------------------------------------------------------------------


def utc(wall: float) -> str:
    """Write a wall time (seconds since the epoch) to the millisecond."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall)) + f".{int(wall * 1000) % 1000:03d}Z"


def file_name(unit: str, wall: float) -> str:
    """Return the name of a crash file; names of one unit sort by time."""
    stamp = re.sub("[:-]", "", utc(wall))
    return f"{unit.replace('/', '.')}.crash.{stamp}.log"


def header(crash: UnitCrashed, wall: float, lines: int, note: str = "") -> bytes:
    """Return the head of a crash file, which ends with an empty line; `lines` follow it. `note` says what is missing."""
    fields = {
        "unit": crash.unit,
        "incarnation": crash.incarnation,
        "time": utc(wall),
        "exit code": "none" if crash.code is None else str(crash.code),
        "signal": crash.signal or "none",
        "out of memory": "yes" if crash.oom else "no",
        "cause": "crash",
        "uptime": "unknown" if crash.uptime is None else f"{crash.uptime:.3f} s",
        "consecutive": str(crash.consecutive),
        "open episodes": " ".join(crash.episodes) or "none",
        "signature": crash.signature,
        "lines": str(lines),
    }
    fields |= {key: value for key, value in crash.facts.items() if key not in fields}
    if note:
        fields["note"] = note
    body = "".join(f"# {key}: {' '.join(value.split())}\n" for key, value in fields.items())
    return f"{_MAGIC}\n{body}\n".encode(errors="replace")


def parse(data: bytes) -> tuple[Mapping[str, str], bytes] | None:
    """Return a crash file's header fields and its tail, None for any other file."""
    head, _, tail = data.partition(b"\n\n")
    magic, *rest = head.decode(errors="replace").split("\n")
    if magic != _MAGIC:
        return None
    pairs = (line.removeprefix("# ").partition(": ") for line in rest)
    return {key: value for key, _, value in pairs}, tail


@dataclass(slots=True)
class CrashGroup:
    """Crashes with one root cause."""

    signature: str
    count: int = 0
    units: Counter[str] = field(default_factory=Counter)
    files: list[Path] = field(default_factory=list)
    """Oldest first."""


def summarize(files: Iterable[Path]) -> list[CrashGroup]:
    """Group crash files, and any other logs, by root cause; the most frequent first. OSError if a file cannot be read.

    The unit of a log that has no header is its file's name up to `.crash.` or its end.
    """
    groups: dict[str, CrashGroup] = {}
    read = [(*_read(path), path) for path in files]
    for _, unit, cause, path in sorted(read, key=lambda entry: entry[0]):
        group = groups.setdefault(cause, CrashGroup(cause))
        group.count += 1
        group.units[unit] += 1
        group.files.append(path)
    return sorted(groups.values(), key=lambda group: -group.count)


def _read(path: Path) -> tuple[str, str, str]:
    """Return time (empty if unknown), unit and root cause of one file."""
    with path.open("rb") as file:
        head = file.read(_HEADER)
        file.seek(0, 2)
        file.seek(max(file.tell() - TAIL, 0))
        tail = file.read()
    named = _NAME.match(path.name)
    unit = named["unit"] if named else path.stem
    if (parsed := parse(head)) is None:
        return "", unit, signature(tail) or "nothing in the log"
    fields = parsed[0]
    return fields.get("time", ""), fields.get("unit", unit), fields.get("signature") or "nothing in the log"
