"""Tells the run as log lines: which events are worth one, at which level, in which words."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, Final

import structlog

from supervisor.journal import events as ev
from supervisor.values import format_duration

Line = tuple[str, str, dict[str, Any]]
"""Level, message, fields."""

_log: Final = structlog.get_logger("soakd")


def narrate(record: ev.Record) -> None:
    """Log a record if it is worth a line. A journal listener."""
    if told := line(record.event):
        level, message, fields = told
        getattr(_log, level)(
            message, **{key: value for key, value in fields.items() if value not in (None, "", [])}
        )


@singledispatch
def line(_: ev.Event) -> Line | None:
    """Return the log line of an event, None for what only the journal needs."""
    return None


def _seconds(value: float | None) -> str | None:
    return None if value is None else format_duration(round(value, 3))


@line.register
def _(event: ev.RunStarted) -> Line:
    fields = {"run": event.run, "soak": event.soak, "seed": event.seed, "duration": _seconds(event.duration)}
    return "info", "run started", fields


@line.register
def _(event: ev.PhaseEntered) -> Line:
    return "info", f"phase: {event.phase}", {}


@line.register
def _(event: ev.RunEnded) -> Line:
    level = "info" if event.reason in (ev.EndReason.DURATION, ev.EndReason.SIGNAL) else "error"
    return level, "the soak is over", {"reason": event.reason, "detail": event.detail}


@line.register
def _(event: ev.JournalTrouble) -> Line:
    return (
        "error",
        "the journal is in trouble",
        {"what": event.what, "detail": event.detail, "lost": event.lost or None},
    )


@line.register
def _(event: ev.HookRan) -> Line:
    level = "info" if event.status == "exit 0" else "error"
    return level, f"ran the command of on: {event.on}", {"command": event.command, "status": event.status}


@line.register
def _(event: ev.LinksOpened) -> Line:
    ways = {name: f"{address} to {event.to.get(name, '')}" for name, address in event.listen.items()}
    return "info", "links relay", {**ways, "with": ", ".join(event.episodes)}


@line.register
def _(event: ev.UnitStarted) -> Line:
    return "info", f"{event.unit} started", {"pid": event.pid, "by": event.by}


@line.register
def _(event: ev.UnitReady) -> Line:
    return "info", f"{event.unit} is ready", {"took": _seconds(event.took)}


@line.register
def _(event: ev.UnitExited) -> Line | None:
    if event.cause is ev.Cause.CRASH:
        return None  # the crash itself is told, with its evidence
    return (
        "info",
        f"{event.unit} exited",
        {"code": event.code, "signal": event.signal, "cause": event.cause, "by": event.by},
    )


@line.register
def _(event: ev.UnitCrashed) -> Line:
    fields = {
        "code": event.code,
        "signal": event.signal,
        "oom": event.oom or None,
        "root": event.signature,
        "during": ", ".join(event.episodes),
        "file": event.file,
    }
    return "warning", f"{event.unit} crashed", fields


@line.register
def _(event: ev.UnitRestarted) -> Line:
    return "info", f"{event.unit} restarted", {"attempt": event.attempt, "downtime": _seconds(event.downtime)}


@line.register
def _(event: ev.UnitStartFailed) -> Line:
    return "error", f"{event.unit} could not be started", {"by": event.by, "error": event.error}


@line.register
def _(event: ev.UnitGivenUp) -> Line:
    return "error", f"{event.unit} is given up", {"crashes": event.crashes, "intensity": event.intensity}


@line.register
def _(event: ev.FaultIntent) -> Line:
    return "info", f"{event.episode} begins", {"targets": ", ".join(t.unit for t in event.targets)}


@line.register
def _(event: ev.EpisodeUnheard) -> Line:
    return "warning", f"loads may know of {event.episode} too late", {"loads": ", ".join(event.loads)}


@line.register
def _(event: ev.FaultFailed) -> Line:
    return "error", f"{event.episode} could not be injected", {"error": event.error}


@line.register
def _(event: ev.FaultUndone) -> Line:
    return "info", f"{event.episode} is undone", {"by": event.by if event.by != "run" else None}


@line.register
def _(event: ev.UndoFailed) -> Line:
    fields = {"attempt": event.attempt, "error": event.error, "broken": event.broken}
    return "error", f"{event.episode} could not be undone", fields


@line.register
def _(event: ev.EpisodeClosed) -> Line:
    if event.recovered:
        return (
            "info",
            f"{event.episode} recovered",
            {"after": _seconds(event.recovery), "truncated": event.truncated},
        )
    if event.recovered is None:
        return "warning", f"{event.episode} closed, recovery not seen", {"truncated": event.truncated}
    return "error", f"{event.episode} did not recover", {"failing": ", ".join(event.failing)}


@line.register
def _(event: ev.DrawSkipped) -> Line:
    return "warning", f"{event.fault}#{event.n} was skipped", {"reason": event.reason}


@line.register
def _(event: ev.OperatorActed) -> Line:
    return "warning", f"by hand: {event.action}", {"what": event.what, "lasting": _seconds(event.seconds)}


@line.register
def _(event: ev.SteadyChanged) -> Line:
    if event.holds:
        return "info", "steady state holds", {}
    return "warning", "steady state lost", {"failing": ", ".join(event.failing)}


@line.register
def _(event: ev.BrokerChanged) -> Line:
    level = "info" if event.state in ("connected", "reconnected", "closed") else "warning"
    return (
        level,
        f"connection {event.connection}: {event.state}",
        {"server": event.server, "detail": event.detail},
    )


@line.register
def _(event: ev.HealthChanged) -> Line:
    level = {"healthy": "info", "degraded": "warning", "unhealthy": "error"}[event.state]
    return level, f"the broker is {event.state}", {"reason": event.reason, "before": event.before}


@line.register
def _(event: ev.LeaderChanged) -> Line | None:
    if event.change == "elected":
        return None  # any restart brings dozens
    level = "warning" if event.change == "quorum-lost" else "info"
    change = event.change.replace("-", " ")
    return level, f"{change}: {event.count} {event.of}(s)", {"groups": ", ".join(event.groups)}


@line.register
def _(event: ev.ViewChanged) -> Line:
    if event.complete:
        return "info", "all of the broker can be seen", {}
    return "warning", "not all of the broker can be seen", {"why": event.why}


@line.register
def _(event: ev.StreamChanged) -> Line | None:
    if event.change != "reset":
        return None
    return (
        "warning",
        f"{event.count} stream(s) in memory lost their content",
        {"streams": ", ".join(event.streams)},
    )


@line.register
def _(event: ev.LoadBroken) -> Line:
    level = "warning" if event.how == "killed" else "error"
    return level, f"load {event.load} {_BROKEN[event.how]}", {"process": event.process, "error": event.error}


_BROKEN: Final = {
    "raised": "raised",
    "killed": "lost a process",
    "cut short": "did not return in time",
    "unworkable": "cannot work by its settings and is over",
}


@line.register
def _(event: ev.InvariantViolated) -> Line:
    return (
        "error",
        f"invariant violated: {event.invariant}",
        {"subject": event.subject, "detail": event.detail},
    )


@line.register
def _(event: ev.CleanedUp) -> Line | None:
    if not event.error:
        return None
    return "warning", f"cleanup of load {event.load} failed", {"error": event.error}


@line.register
def _(event: ev.VerdictReached) -> Line:
    level = {"pass": "info", "inconclusive": "warning", "fail": "error"}[event.verdict]
    return level, f"verdict: {event.verdict}", {"reasons": list(event.reasons)}
