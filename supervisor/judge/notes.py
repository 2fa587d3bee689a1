"""What stands out without deciding the verdict: nobody reads a journal of days to find it."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.judge.counting import plural, times
from supervisor.judge.tally import Tally


def notes(tally: Tally) -> tuple[str, ...]:
    """Return sentences, what no episode explains first."""
    return (*_unexplained(tally), *_not_asked(tally), *_by_hand(tally), *_faults(tally), *_ourselves(tally))


def _unexplained(tally: Tally) -> Iterator[str]:
    for unit in tally.units.values():
        if unit.unexplained:
            yield f"{unit.name} crashed {times(unit.unexplained)} while no episode was open"
        if unit.start_failed:
            yield f"{unit.name} could not be started {times(unit.start_failed.count)}: {unit.start_failed}"
    for load in tally.loads.values():
        if load.unexplained:
            top = sorted(load.unexplained_errors.items(), key=lambda item: (-item[1], item[0]))[:3]
            errors = ", ".join(f"{name} {count:,}" for name, count in top)
            yield f"load {load.name}: no episode explains {plural(load.unexplained, 'failure')}: {errors}"


def _faults(tally: Tally) -> Iterator[str]:
    for fault in tally.episodes.faults.values():
        for what, some in (
            ("inject failed in", fault.inject_failed),
            ("did not last as planned in", fault.truncated),
        ):
            if some:
                yield f"{fault.name} {what} {plural(some.count, 'episode')}: {some}"
        if fault.skipped:
            yield f"{fault.name}: {plural(fault.skipped.count, 'draw')} skipped: {fault.skipped}"
        for load, some in fault.unheard.items():
            late = f"load {load}: a process may have known of {plural(some.count, 'episode')} too late"
            yield f"{late}, and counted without them what they explain: {some}"
        if fault.unseen:
            yield f"{fault.name}: the recovery of {plural(fault.unseen, 'episode')} was not looked at"


def _not_asked(tally: Tally) -> Iterator[str]:
    if tally.started:
        clients = ", ".join(f"{load} {client}" for load, client in tally.started.clients.items())
        for text in tally.started.not_asked:
            yield f"{text}: not asked, since it is meant of another client (clients: {clients})"


def _by_hand(tally: Tally) -> Iterator[str]:
    if changed := tally.soak_file.get("changed"):
        text = f"the soak file was changed {times(changed.count)} during the soak, and is judged as it was in the end"
        yield f"{text}: {changed}"
    if refused := tally.soak_file.get("refused"):
        yield f"a change of the soak file was refused {times(refused.count)}: {refused}"
    for action, some in tally.by_hand.items():
        yield f"by hand: {action} {times(some.count)}: {some}"


def _ourselves(tally: Tally) -> Iterator[str]:
    for load in tally.loads.values():
        if load.cut_off:
            yield f"load {load.name}: {plural(load.cut_off, 'operation')} cut off at the end, counted as indeterminate"
        if load.killed:
            yield f"load {load.name} lost a process {times(load.killed.count)}, which was started again: {load.killed}"
        if load.dropped or load.late:
            yield f"load {load.name}: {load.dropped:,} operations dropped, {load.late:,} started late"
    if tally.cleanups_failed:
        yield f"cleanup failed {times(tally.cleanups_failed.count)}: {tally.cleanups_failed}"
    if tally.tasks_crashed:
        count = times(tally.tasks_crashed.count)
        yield f"parts of soakd itself crashed {count} and were started again: {tally.tasks_crashed}"
