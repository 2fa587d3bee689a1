"""The verdict: read from the records alone, the worst finding wins, and no silence counts as a pass.

`judge` folds the records into a `Tally` once and then asks every rule below. It is deterministic, and what earlier judgements left
in the journal (`run.verdict`, `run.hook`) does not matter to it, so `soakd report` reaches the verdict of the live run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from supervisor.journal.events import EndReason, Record
from supervisor.judge.counting import Some, brief, plural, times
from supervisor.judge.episode import FaultTotals, Outcome
from supervisor.judge.evaluation import Checked, Verdict, check, complete
from supervisor.judge.tally import Tally
from supervisor.values import format_duration

LAG_LIMIT: Final = 1.0
"""Seconds. An event loop that once stood still for longer noticed crashes late and started operations late."""
JOURNAL: Final = "journal-*.jsonl"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason for a verdict."""

    verdict: Verdict
    rule: str
    """What kind of reason it is, stable for machines: `threshold`, `given-up`."""
    text: str
    """A sentence with the numbers that were seen."""
    where: str = ""
    """The file of the run directory to look into."""

    def __str__(self) -> str:
        return f"{self.text} (see {self.where})" if self.where else self.text


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict of a run and everything the reports show."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    """Worst first; empty for a pass."""
    thresholds: tuple[Checked, ...]
    """In the soak file's order."""
    tally: Tally
    """The totals it was read from, which nobody changes any more."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """The findings as sentences, worst first."""
        return tuple(str(finding) for finding in self.findings)


def judge(records: Iterable[Record]) -> Judgement:
    """Read the verdict from a run's records, in their order. One pass; memory does not grow with their number."""
    tally = Tally()
    for record in records:
        tally.apply(record)
    checked = tuple(check(text, tally) for text in (tally.started.thresholds if tally.started else ()))
    findings = [*_thresholds(checked)]
    for rule in (_end, _evidence, _units, _faults, _loads, _looks, _ourselves):
        findings += rule(tally)
    findings.sort(
        key=lambda finding: -finding.verdict.rank
    )  # stable: within a verdict the order of the rules
    verdict = findings[0].verdict if findings else Verdict.PASS
    return Judgement(verdict, tuple(findings), checked, tally)


def _fail(rule: str, text: str, where: str = "") -> Finding:
    return Finding(Verdict.FAIL, rule, text, where)


def _doubt(rule: str, text: str, where: str = "") -> Finding:
    return Finding(Verdict.INCONCLUSIVE, rule, text, where)


def _thresholds(checked: Iterable[Checked]) -> Iterator[Finding]:
    for one in checked:
        if one.verdict is Verdict.FAIL:
            yield _fail("threshold", f"{one.text} does not hold: {one.why}", "verdict.json")
        elif one.verdict is Verdict.INCONCLUSIVE:
            yield _doubt("threshold", f"{one.text} cannot be judged: {one.why}", "verdict.json")


_CUT_SHORT: Final = {
    EndReason.GUARDIAN_GONE: "the guardian was gone, so the run stopped itself",
    EndReason.GAVE_UP: "a part of soakd itself crashed more often than it may",
    EndReason.FAILED_TO_START: "the run failed to start",
    EndReason.DIED: "the daemon died without a word",
}


def _end(tally: Tally) -> Iterator[Finding]:
    """How the run ended, and whether it lasted as long as it was meant to."""
    started, ended = tally.started, tally.ended
    if started is None:
        yield _doubt(
            "no-start", "the journal does not say what was started: its beginning is missing", JOURNAL
        )
    lasted = format_duration(round(tally.soaked, 1))
    if ended is None:
        yield _doubt(
            "no-end", f"the journal breaks off {lasted} into the soak: the run did not end in order", JOURNAL
        )
        return
    detail = f": {brief(ended.detail)}" if ended.detail else ""
    if ended.reason is EndReason.ABORT:
        yield _fail("aborted", f"the run was aborted {lasted} into the soak{detail}", JOURNAL)
    elif ended.reason in _CUT_SHORT:
        text = f"{_CUT_SHORT[ended.reason]}, {lasted} into the soak{detail}"
        yield _doubt(str(ended.reason), text, JOURNAL)
    elif tally.soaking is None:
        yield _doubt("no-soak", f"the run was ended before the soak began{detail}", JOURNAL)
    elif started and started.duration is not None and not complete(tally):
        meant = format_duration(started.duration)
        yield _doubt("short", f"a signal ended the soak after {lasted} of {meant}{detail}", JOURNAL)


def _evidence(tally: Tally) -> Iterator[Finding]:
    """What the journal and the crash files lack."""
    for what, some in tally.trouble.items():
        text = f"evidence was or may have been lost ({what}, {times(some.count)}): {some}"
        yield _doubt("journal-trouble", text, JOURNAL)
    for unit in tally.units.values():
        if unit.uncaptured:
            count = plural(unit.uncaptured.count, "crash")
            text = f"{unit.name}: the evidence of {count} could not be written: {unit.uncaptured}"
            yield _doubt("crash-not-captured", text, f"{unit.name}.mon.log")
    for name, some in tally.invariants.items():
        text = f"{name} was violated {times(some.count)}: {some}"
        yield _fail("invariant", text, JOURNAL)


def _units(tally: Tally) -> Iterator[Finding]:
    for unit in tally.units.values():
        if unit.given_up:
            text = f"{unit.name} was given up: it crashed more often than {unit.given_up} ({plural(unit.crashes, 'crash')})"
            yield _fail("given-up", text, f"{unit.name}.mon.log")


def _faults(tally: Tally) -> Iterator[Finding]:
    """Episodes that went wrong, and faults that were to happen and did not."""
    wanted = dict.fromkeys(tally.started.faults, 1) | tally.started.planned if tally.started else {}
    for fault in tally.episodes.faults.values():
        if fault.undo_failed:
            count = plural(fault.undo_failed.count, "episode")
            yield _fail("undo-failed", f"{fault.name}: undo failed in {count}: {fault.undo_failed}", JOURNAL)
        if fault.not_recovered:
            text = f"{fault.name}: {fault.not_recovered.count:,} of {plural(fault.episodes, 'episode')} did not recover"
            yield _fail("not-recovered", f"{text} in time: {fault.not_recovered}", "evidence.csv")
        if fault.unmet:
            text = (
                f"{fault.name}: what was expected during {plural(fault.unmet.count, 'episode')} was not seen"
            )
            yield _fail("unmet", f"{text}: {fault.unmet}", "evidence.csv")
        if fault.injected < wanted.get(fault.name, 0):
            paused = tally.by_hand.get("pause")
            text = _missing(fault, wanted[fault.name])
            text += f"; an operator paused the faults {times(paused.count)}: {paused}" if paused else ""
            yield _doubt("never-fired", text, JOURNAL)
        elif fault.unseen and not fault.recovered and not fault.not_recovered:
            text = f"{fault.name}: nobody saw whether the system recovers from it: the run ended first"
            yield _doubt("recovery-unseen", text, "evidence.csv")
    left = [episode.id for episode in tally.episodes.listed() if episode.outcome is Outcome.OPEN]
    if left:
        some = Some(len(left), left[:5])
        text = f"{plural(len(left), 'episode')} never closed, and their faults may still be in place: {some}"
        yield _doubt("never-closed", f"{text}; run soakd recover", JOURNAL)


def _missing(fault: FaultTotals, wanted: int) -> str:
    fired = f"fired {fault.injected:,} of {times(wanted)}" if wanted > 1 else "never fired"
    text = f"{fault.name} {fired}"
    if fault.inject_failed:
        text += f"; inject failed: {fault.inject_failed}"
    if fault.skipped:
        text += f"; {plural(fault.skipped.count, 'draw')} skipped: {fault.skipped}"
    return text


def _loads(tally: Tally) -> Iterator[Finding]:
    """Loads that show nothing."""
    logged = tally.started.logged if tally.started else ()
    for load in tally.loads.values():
        where = f"{load.name}.log" if load.name in logged else "summary.md"
        if load.unworkable:
            text = f"load {load.name} cannot work by its settings, and was not tried again: {load.unworkable}"
            yield _doubt("load-unworkable", text, JOURNAL)
        elif not load.finished:
            dropped = f" ({load.dropped:,} dropped)" if load.dropped else ""
            text = f"load {load.name} did not finish a single operation{dropped}, so it says nothing"
            yield _doubt("no-operation", text, where)
        elif not load.ok:
            text = f"load {load.name}: none of its {plural(load.finished, 'operation')} was ok, so it shows nothing"
            yield _doubt("never-ok", text, where)
        if load.broken:
            text = f"load {load.name} broke {times(load.broken.count)}, and what it had under way is unknown: {load.broken}"
            yield _doubt("load-broken", text, JOURNAL)
        if tally.ended and load.without_outcome:
            text = f"load {load.name}: {plural(load.without_outcome, 'operation')} begun of which nothing more was heard"
            yield _doubt("no-outcome", text, JOURNAL)
        if load.unreadable:
            text = f"load {load.name}: latencies of {plural(load.unreadable, 'slice')} could not be read"
            yield _doubt("unreadable", text, JOURNAL)


def _looks(tally: Tally) -> Iterator[Finding]:
    """The steady state at the end, and probes that saw nothing."""
    if tally.steady is not None and not tally.steady.holds:
        failing = ", ".join(tally.steady.failing[:5])
        text = f"the steady state did not hold at the end: {failing or 'nothing says why'}"
        yield _doubt("not-steady", text, "evidence.csv")
    blind = [probe for probe in tally.probes.values() if not probe.looked]
    for probe in blind[:5]:
        why = brief(probe.last.detail) if probe.last else "there is no reading of it"
        yield _doubt(
            "probe-blind", f"probe {probe.title} could never look: {why or 'it says no reason'}", JOURNAL
        )
    if len(blind) > 5:
        yield _doubt("probe-blind", f"{len(blind) - 5} more probes could never look", "verdict.json")
    if not (tally.loads or tally.probes or tally.steady or (tally.started and tally.started.thresholds)):
        yield _doubt(
            "nothing-looked", "nothing looked at the system: there was neither load nor probe", "soak.yaml"
        )


def _ourselves(tally: Tally) -> Iterator[Finding]:
    """What keeps soakd itself from being a good witness."""
    if tally.tasks_gave_up:
        text = f"a part of soakd crashed until it was given up: {tally.tasks_gave_up}"
        yield _doubt("task-gave-up", text, JOURNAL)
    if tally.lag > LAG_LIMIT:
        lag, limit = format_duration(tally.lag), format_duration(LAG_LIMIT)
        text = f"soakd's own event loop once lagged {lag} (at most {limit} is trusted): the machine was overloaded"
        yield _doubt("own-lag", text, JOURNAL)
