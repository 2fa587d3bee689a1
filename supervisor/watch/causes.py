"""What a log's tail says its program died of: a stack trace, or else the last complaint, or else the last words.

A stack trace is stronger than any log line. Logs are plain text, logfmt or JSON; a JSON line may carry a whole trace.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from supervisor.watch.traces import Finding, Lines, last_trace, place


def find(lines: Lines) -> Finding | None:
    """Return the root cause, None if no line says anything."""
    plain, logged = last_trace(lines), _logged_trace(lines)
    if plain and logged:
        return max(plain, logged, key=lambda found: found.line)
    return plain or logged or _complaint(lines) or _last(lines)


_LEVELS: Final = ("level", "severity", "lvl", "levelname", "log.level", "@l", "loglevel")
_SEVERE: Final = frozenset(
    {"error", "err", "fatal", "critical", "crit", "panic", "dpanic", "alert", "emergency", "emerg", "severe"}
)
_NUMERIC: Final = 50
"""Error for the loggers that write levels as numbers (pino, bunyan), critical in Python's."""
_TRACE_KEYS: Final = (
    "exception",
    "exc_info",
    "traceback",
    "stack_trace",
    "stacktrace",
    "stack",
    "error",
    "err",
)
_TEXT_KEYS: Final = ("event", "message", "msg", "@m", "text")
_TRACED: Final = re.compile(r'\\n|\\u000[Aa]|"exc_type"')
"""What a JSON line with a stack trace has in it: an end of a line, or structlog's dictionary. Few others have to be read."""
_WORD: Final = re.compile(
    r"\b(?:ERROR|FATAL|CRITICAL|PANIC|EMERG|ALERT|SEVERE)\b|\[(?:ERR|FTL|CRT|CRIT)\]"
    r"|\b(?:level|lvl|severity)=\"?(?:error|fatal|critical|panic)\b|^(?:[\w.-]+: )?(?:error|fatal)\b:",
)
_WORD_ANYHOW: Final = re.compile(r"^(?:Error|Fatal|ERR|FTL): ")
_HINT: Final = re.compile(
    "ERR|FATAL|FTL|CRIT|CRT|PANIC|EMERG|ALERT|SEVERE|Error|error|Fatal|fatal|critical|panic"
)
"""What each of these has in it. It is looked for ten times as fast as they are, and a unit is down meanwhile."""


def _logged_trace(lines: Lines) -> Finding | None:
    """Return the cause inside the last JSON line that carries a whole stack trace."""
    for index in range(len(lines) - 1, -1, -1):
        line = lines[index]
        if not line.endswith("}") or not _TRACED.search(line):
            continue
        if (entry := _entry(line)) and (found := _trace_of(entry)):
            return Finding(index, found.kind, found.message, found.where)
    return None


def _trace_of(entry: dict[str, Any]) -> Finding | None:
    for key in _TRACE_KEYS:
        value = entry.get(key)
        if isinstance(value, dict):
            value = value.get("stack") or value.get("stack_trace")
        if isinstance(value, list) and value and isinstance(value[-1], dict) and "exc_type" in value[-1]:
            return _structured(value[-1])
        if isinstance(value, str) and "\n" in value:
            return last_trace(value.splitlines())
    return None


def _structured(exception: dict[str, Any]) -> Finding:
    """Read structlog's dictionary of an exception; the last of the list is the root."""
    frames = exception.get("frames")
    places = [
        (str(frame.get("filename", "")), str(frame.get("name", "")))
        for frame in (frames if isinstance(frames, list) else [])
        if isinstance(frame, dict)
    ]
    return Finding(0, str(exception["exc_type"]), str(exception.get("exc_value", "")), place(places))


def _complaint(lines: Lines) -> Finding | None:
    """Return the last line of a level that means trouble."""
    for index in range(len(lines) - 1, -1, -1):
        line = lines[index]
        if entry := _entry(line):
            if _is_severe(entry):
                return Finding(index, "", _text(entry))
        elif _HINT.search(line) and (word := _WORD.search(line) or _WORD_ANYHOW.search(line)):
            return Finding(index, "", line[word.start() :])
    return None


def _entry(line: str) -> dict[str, Any] | None:
    """Read a JSON object; it may follow a prefix such as a time or the name of a container."""
    begin = line.find("{")
    if begin < 0 or not line.endswith("}"):
        return None
    try:
        entry = json.loads(line[begin:])
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _is_severe(entry: dict[str, Any]) -> bool:
    for key in _LEVELS:
        level = entry.get(key)
        if isinstance(level, str):
            return level.lower() in _SEVERE
        if isinstance(level, int):
            return level >= _NUMERIC
    return False


def _text(entry: dict[str, Any]) -> str:
    """Return what an entry says, with the error it names."""
    texts = [str(entry[key]) for key in _TEXT_KEYS if isinstance(entry.get(key), str)][:1]
    for key in ("error", "err", "exception", "reason"):
        value = entry.get(key)
        if isinstance(value, dict):
            value = value.get("message") or value.get("msg")
        if isinstance(value, str) and value and value not in texts:
            texts.append(value)
            break
    return ": ".join(texts) or json.dumps(entry)


def _last(lines: Lines) -> Finding | None:
    for index in range(len(lines) - 1, -1, -1):
        if lines[index].strip():
            return Finding(index, "", lines[index].strip())
    return None
