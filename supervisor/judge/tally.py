"""The whole run in totals: one pass over its records, whatever their number, in memory that does not grow with time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from supervisor.journal.events import (
    CleanedUp,
    EndReason,
    EpisodeClosed,
    Event,
    Evidence,
    FaultIntent,
    FaultUndone,
    HookRan,
    InvariantViolated,
    JournalTrouble,
    LoadBroken,
    LoadStopped,
    LoadWindow,
    LoopLag,
    Observation,
    OperatorActed,
    Phase,
    PhaseEntered,
    ProbeChanged,
    Record,
    RunEnded,
    RunStarted,
    SoakFileRead,
    SteadyChanged,
    TaskCrashed,
    UndoFailed,
    UnitCrashed,
    UnitExited,
    UnitGivenUp,
    UnitRestarted,
    UnitStartFailed,
    VerdictReached,
)
from supervisor.journal.timeline import Timeline
from supervisor.judge.baseline import Baseline
from supervisor.judge.counting import CASES, NAMES, Moment, Some, slot
from supervisor.judge.curve import Curve
from supervisor.judge.episodes import Episodes
from supervisor.judge.firsts import First, Firsts
from supervisor.judge.latencies import PackedSum
from supervisor.judge.operations import LoadTotals
from supervisor.judge.probes import Probes
from supervisor.judge.sliding import Meter, meter_of
from supervisor.judge.thresholds import Threshold, ThresholdError
from supervisor.judge.units import UnitTotals, how_it_ended
from supervisor.values import format_duration

SAMPLED: Final = 10.0
"""Seconds of which the first word on our own lag tells."""
LAG: Final = "soakd_event_loop_lag_seconds"
_AFTERWARDS: Final = frozenset({RunEnded, FaultUndone, UndoFailed, EpisodeClosed, VerdictReached, HookRan})
"""What recovery and judging write when the soak is over."""
_RUN: Final = frozenset({RunStarted, PhaseEntered, RunEnded, JournalTrouble, TaskCrashed})
_HAND: Final = frozenset({SoakFileRead, OperatorActed})
_UNIT: Final = frozenset({UnitExited, UnitCrashed, UnitRestarted, UnitGivenUp, UnitStartFailed})
_LOOK: Final = frozenset(
    {SteadyChanged, ProbeChanged, Evidence, InvariantViolated, LoadStopped, LoadBroken, CleanedUp}
)
"""Which method takes what. Events are told apart by `type`, since none has subclasses: `isinstance` asks pydantic's metaclass unless the
class is the very one, and thirty such questions for a record add up."""


@dataclass(slots=True)
class Tally:
    """Everything that the verdict and the reports are made of."""

    started: RunStarted | None = None
    began: Moment | None = None
    loaded: Moment | None = None
    """When the loads began: with the baseline, or with the soak."""
    soaking: Moment | None = None
    ended: RunEnded | None = None
    over: Moment | None = None
    """When the run ended."""
    alive: Moment = field(default_factory=lambda: Moment(0.0, 0.0))
    """The last record that a run still in progress wrote: recovery may add its own days later."""
    phase: Phase | None = None
    units: dict[str, UnitTotals] = field(default_factory=dict)
    loads: dict[str, LoadTotals] = field(default_factory=dict)
    episodes: Episodes = field(default_factory=Episodes)
    probes: Probes = field(default_factory=Probes)
    steady: SteadyChanged | None = None
    """The last word on the steady state before judging began."""
    invariants: dict[str, Some] = field(default_factory=dict)
    violations: list[InvariantViolated] = field(default_factory=list)
    """The first ones, with all that is known of them."""
    trouble: dict[str, Some] = field(default_factory=dict)
    tasks_crashed: Some = field(default_factory=Some)
    tasks_gave_up: Some = field(default_factory=Some)
    lag: float = 0.0
    """The worst lag of soakd's own event loop, in seconds."""
    lags: PackedSum = field(default_factory=PackedSum)
    """All of them, ten a second."""
    _measured_lag: dict[str, float] = field(default_factory=dict, compare=False)
    """Until when the lag of the daemon and of each load's processes is known, in monotonic seconds."""
    baseline: Baseline | None = None
    meters: dict[str, Meter] = field(default_factory=dict, compare=False)
    """By the text of a threshold that is not about the whole run simply."""
    _timeline: Timeline = field(default_factory=Timeline, compare=False)
    cleanups_failed: Some = field(default_factory=Some)
    crashes: Curve = field(default_factory=Curve)
    """When units crashed."""
    soak_file: dict[str, Some] = field(default_factory=dict)
    """How often it was `changed` during the soak, and how often a change was `refused`."""
    by_hand: dict[str, Some] = field(default_factory=dict)
    """What an operator did, by action, each case with its time into the soak."""
    firsts: Firsts = field(default_factory=Firsts)

    def apply(self, record: Record) -> None:
        """Take the next record."""
        moment, event = Moment(record.wall, record.mono), record.event
        if type(event) not in _AFTERWARDS:
            self.alive = moment
            for meter in self.meters.values():
                meter.now(moment.mono)
        if type(event) is LoadWindow:  # nearly all records of a long run
            self.episodes.window(event)
            self._window(event, moment)
        elif type(event) is Observation:
            self.lag = max(self.lag, event.values.get(LAG, 0.0))
        elif type(event) is LoopLag:
            self._lagged(event, moment)
        else:
            self._timeline.apply(record)
            self.episodes.apply(event, moment)
            self._other(event, moment)
            if type(event) is FaultIntent:  # which an operator can do
                self._disturbed(f"{event.episode} was injected in it")

    def _other(self, event: Event, moment: Moment) -> None:
        kind = type(event)
        if kind in _RUN:
            self._run(event, moment)
        elif kind in _HAND:
            self._hand(event, moment)
        elif kind in _UNIT:
            self._unit(event, moment)
        elif kind in _LOOK:
            self._look(event, moment)

    @property
    def length(self) -> float:
        """Seconds from the start to the end of the run, or to its last record."""
        return (self.over or self.alive).since(self.began) if self.began else 0.0

    @property
    def measured(self) -> float:
        """Seconds that the loads ran, the baseline included."""
        return (self.over or self.alive).since(self.loaded) if self.loaded else 0.0

    @property
    def soaked(self) -> float:
        """Seconds that the soak itself lasted."""
        return (self.over or self.alive).since(self.soaking) if self.soaking else 0.0

    def _run(self, event: Event, moment: Moment) -> None:
        match event:
            case RunStarted() if self.started is None:
                self.started, self.began = event, moment
                self.units |= {name: UnitTotals(name) for name in event.units}
                self.loads |= {name: LoadTotals(name=name) for name in event.loads}
                self.meters = dict(_meters(event.thresholds))
                self.probes.expect(event.probes)
                for fault in event.faults:
                    self.episodes.fault(fault)
            case PhaseEntered():
                self._enter(event.phase, moment)
            case RunEnded() if self.ended is None:
                self.ended = event
                self.over = self.alive if event.reason is EndReason.DIED else moment
                for meter in self.meters.values():
                    meter.end(self.over.mono)
            case JournalTrouble():
                self.trouble.setdefault(event.what, Some()).add(event.detail)
            case TaskCrashed():
                crashed = self.tasks_gave_up if event.gave_up else self.tasks_crashed
                crashed.add(f"{event.task} ({event.error})")
            case _:
                pass

    def _enter(self, phase: Phase, moment: Moment) -> None:
        self.phase = phase
        if phase is Phase.BASELINE and self.started:
            self.baseline = Baseline(self.started.baseline or 0.0, moment.mono)
        elif self.baseline and self.baseline.ended is None:
            self.baseline.ended = moment.mono
        if phase in (Phase.BASELINE, Phase.SOAKING):
            self.loaded = self.loaded or moment
            for meter in self.meters.values():
                if phase is Phase.SOAKING or not meter.threshold.relative:
                    meter.begin(moment.mono)
        if phase is Phase.SOAKING:
            self.soaking = moment

    def _lagged(self, event: LoopLag, moment: Moment) -> None:
        lags = PackedSum()
        try:
            lags.add(event.times)
        except ValueError:
            self.trouble.setdefault("torn", Some()).add("a record of our own lag cannot be read")
            return
        if event.load:
            self._load(event.load).loops.merge(lags)
            self.lag = max(self.lag, lags.highest)
        else:
            self.lags.merge(lags)
        begin = self._measured_lag.get(event.load, moment.mono - SAMPLED)
        self._measured_lag[event.load] = moment.mono
        marks = {
            self._timeline.overlapping(*span)
            for span in ((begin, moment.mono), (begin, begin), (moment.mono, moment.mono))
        }
        for meter in self.meters.values():
            meter.loop(event.load, begin, moment.mono, lags, marks)

    def loops(self, loads: Iterable[str]) -> PackedSum:
        """Return how late the event loops were in which these loads ran."""
        own = [self.loads[name].loops for name in loads]
        total = PackedSum()
        for one in own:
            total.merge(one if one.counts else self.lags)
        return total

    def _disturbed(self, what: str) -> None:
        if self.phase is Phase.BASELINE and self.baseline:
            self.baseline.disturbances.add(what)

    def _happened(self, what: str, unit: str, moment: Moment) -> None:
        """Tell the thresholds what happened to a unit."""
        marks = self._timeline.marks()
        if what == "crashes":
            self.crashes.at(moment.mono).crashes += 1
        for meter in self.meters.values():
            meter.unit(what, unit, marks, moment.mono)
            if not marks:
                meter.unit(f"unexplained {what}", unit, marks, moment.mono)

    def _hand(self, event: Event, moment: Moment) -> None:
        match event:
            case SoakFileRead():
                self._read_again(event, moment)
            case OperatorActed():
                when = format_duration(round(moment.since(self.soaking or moment)))
                lasting = f" for {format_duration(event.seconds)}" if event.seconds is not None else ""
                what = f"{event.what}{lasting}".strip()
                done = self.by_hand.setdefault(event.action, Some())
                done.add(f"{what} after {when}" if what else f"after {when}")
            case _:
                pass

    def _read_again(self, event: SoakFileRead, moment: Moment) -> None:
        """Judge by the soak file as it was in the end, and remember what was changed when."""
        when = format_duration(round(moment.since(self.soaking or moment)))
        what = "refused" if event.refused else "changed"
        paths = ", ".join((*event.added, *event.removed, *event.changed))
        self.soak_file.setdefault(what, Some()).add(f"{event.refused or paths} after {when}")
        if self.started and not event.refused:
            names = ("duration", "faults", "thresholds", "not_asked", "planned")
            given = {name: getattr(event, name) for name in names}
            self.started = self.started.model_copy(update=given)
            self.probes.expect(event.probes)

    def _unit(self, event: Event, moment: Moment) -> None:
        match event:
            case UnitExited():
                if self.unit(event.unit).exited(event, self.episodes.open()):
                    self._happened("crashes", event.unit, moment)
                    self._disturbed(f"{event.unit} crashed in it")
            case UnitCrashed():
                if self.unit(event.unit).crashed(event, moment):
                    self._happened("crashes", event.unit, moment)
                    self._disturbed(f"{event.unit} crashed in it")
                self.episodes.crashed(event.unit, event.episodes)
                how = event.signature or how_it_ended(event.code, event.signal, event.oom)
                self.firsts.note("crash", First(moment, f"{event.unit}: {how}", event.episodes))
            case UnitRestarted():
                unit = self.unit(event.unit)
                unit.restarts += 1
                self._happened("restarts", event.unit, moment)
                unit.worst_downtime = max(unit.worst_downtime, event.downtime)
            case UnitGivenUp():
                self.unit(event.unit).given_up = event.intensity
            case UnitStartFailed():
                self.unit(event.unit).start_failed.add(event.error)
            case _:
                pass

    def _look(self, event: Event, moment: Moment) -> None:
        match event:
            case SteadyChanged() if self.phase is not Phase.JUDGING:
                self.steady = event
                if not event.holds:
                    self._disturbed("the steady state was lost in it")
            case ProbeChanged():
                self.probes.read(event.reading).losses += not event.reading.ok
            case Evidence():
                for reading in event.readings:
                    self.probes.read(reading)
            case InvariantViolated():
                key = slot(self.invariants, event.invariant)
                self.invariants.setdefault(key, Some()).add(f"{event.subject}: {event.detail}")
                self.violations += [event][: CASES - len(self.violations)]
                what = f"{event.invariant}: {event.subject}: {event.detail}"
                self.firsts.note("invariant violated", First(moment, what, self.episodes.open()))
            case LoadStopped():
                self._load(event.load).stopped(event)
            case LoadBroken():
                self._load(event.load).broke(event)
            case CleanedUp() if event.error:
                self.cleanups_failed.add(f"{event.load}: {event.error}")
            case _:
                pass

    def _window(self, window: LoadWindow, moment: Moment) -> None:
        self._load(window.load).window(window)
        if self.baseline and self.phase is Phase.BASELINE:
            self.baseline.window(window)
        for meter in self.meters.values():
            meter.window(window)
        self.firsts.window(window, moment)

    def unit(self, name: str) -> UnitTotals:
        """Return the totals of a unit, also of one that the run did not announce."""
        key = slot(self.units, name, NAMES)
        if key not in self.units:
            self.units[key] = UnitTotals(key)
        return self.units[key]

    def _load(self, name: str) -> LoadTotals:
        if name in self.loads:
            return self.loads[name]
        return self.loads.setdefault(key := slot(self.loads, name, NAMES), LoadTotals(name=key))


def _meters(thresholds: Iterable[str]) -> Iterator[tuple[str, Meter]]:
    for text in thresholds:
        try:
            meter = meter_of(Threshold.parse(text))
        except ThresholdError:  # of another version of soakd: said where it is held against what was seen
            continue
        if meter is not None:
            yield text, meter
