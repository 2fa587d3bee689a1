from __future__ import annotations

from collections.abc import Callable

import pytest
from judge_story import Story, long_night, piece
from judged_stories import BLIND, LAG, begun, passing

from supervisor.journal.events import (
    DrawSkipped,
    EndReason,
    EpisodeClosed,
    Evidence,
    FaultFailed,
    FaultInjected,
    FaultUndone,
    HookRan,
    InvariantViolated,
    JournalTrouble,
    LoadBroken,
    LoadStopped,
    Observation,
    OpenEvent,
    Phase,
    PhaseEntered,
    ProbeChanged,
    Reading,
    RunEnded,
    Slice,
    SteadyChanged,
    TaskCrashed,
    UndoFailed,
    UnitGivenUp,
)
from supervisor.judge.evaluation import Verdict
from supervisor.judge.verdict import judge

FAILS: dict[str, tuple[Callable[[], Story], str]] = {
    "threshold": (
        lambda: begun(loads=("rpc",), thresholds=("ok == 100%",)).window("rpc", piece(ok=9, failed=1)).end(),
        "ok == 100% does not hold: seen 90% (9 of 10 scheduled operations) (see verdict.json)",
    ),
    "given-up": (
        lambda: passing().crash().tell(UnitGivenUp(unit="worker", crashes=3, intensity="2 / 1m")).end(),
        "worker was given up: it crashed more often than 2 / 1m (1 crash) (see worker.mon.log)",
    ),
    "undo-failed": (
        lambda: (
            passing()
            .intend(n=2)
            .tell(
                FaultInjected(episode="restart-nats#2", took=0),
                UndoFailed(episode="restart-nats#2", attempt=1, error="e", broken="nats1 is down: start it"),
                FaultUndone(episode="restart-nats#2", attempts=2),
                EpisodeClosed(episode="restart-nats#2", recovered=True, recovery=1),
            )
            .end()
        ),
        "restart-nats: undo failed in 1 episode: restart-nats#2: nats1 is down: start it (see journal-*.jsonl)",
    ),
    "not-recovered": (
        lambda: passing().episode(n=2, recovered=False, recovery=None).end(),
        "restart-nats: 1 of 2 episodes did not recover in time: restart-nats#2 (see evidence.csv)",
    ),
    "invariant": (
        lambda: (
            passing()
            .tell(
                InvariantViolated(invariant="no acked message lost", subject="orders", detail="seq 7 is gone")
            )
            .end()
        ),
        "no acked message lost was violated once: orders: seq 7 is gone (see journal-*.jsonl)",
    ),
    "aborted": (
        lambda: passing().end(EndReason.ABORT, "crashes <= 5"),
        "the run was aborted 13.5s into the soak: crashes <= 5 (see journal-*.jsonl)",
    ),
}

DOUBTS: dict[str, tuple[Callable[[], Story], str]] = {
    "threshold": (
        lambda: begun(loads=("rpc",), thresholds=("lost == 0",)).operate().end(),
        "lost == 0 cannot be judged: all loads never reported a count of lost (see verdict.json)",
    ),
    "no-start": (
        lambda: Story().tell(PhaseEntered(phase=Phase.SOAKING)).operate().end(),
        "the journal does not say what was started: its beginning is missing (see journal-*.jsonl)",
    ),
    "no-end": (
        passing,
        "the journal breaks off 13.5s into the soak: the run did not end in order (see journal-*.jsonl)",
    ),
    "guardian-gone": (
        lambda: passing().end(EndReason.GUARDIAN_GONE),
        "the guardian was gone, so the run stopped itself, 13.5s into the soak (see journal-*.jsonl)",
    ),
    "gave-up": (
        lambda: passing().end(EndReason.GAVE_UP, "load rpc crashed"),
        "a part of soakd itself crashed more often than it may, 13.5s into the soak: load rpc crashed",
    ),
    "failed-to-start": (
        lambda: begun(loads=("rpc",)).operate().end(EndReason.FAILED_TO_START, "nats1 is not ready"),
        "the run failed to start, 0ms into the soak: nats1 is not ready (see journal-*.jsonl)",
    ),
    "died": (
        lambda: passing().end(EndReason.DIED),
        "the daemon died without a word, 13.5s into the soak (see journal-*.jsonl)",
    ),
    "no-soak": (
        lambda: Story().tell(Story().begin(duration=None).records[0].event).operate().end(EndReason.SIGNAL),
        "the run was ended before the soak began (see journal-*.jsonl)",
    ),
    "short": (
        lambda: passing().end(EndReason.SIGNAL, "SIGTERM"),
        "a signal ended the soak after 13.5s of 1m: SIGTERM (see journal-*.jsonl)",
    ),
    "journal-trouble": (
        lambda: passing().tell(JournalTrouble(what="fsync-failed", detail="journal-0001.jsonl: EIO")).end(),
        "evidence was or may have been lost (fsync-failed, once): journal-0001.jsonl: EIO (see journal-*.jsonl)",
    ),
    "no-operation": (
        lambda: begun(loads=("rpc",)).window("rpc", scheduled=5, dropped=5).end(),
        "load rpc did not finish a single operation (5 dropped), so it says nothing (see summary.md)",
    ),
    "never-ok": (
        lambda: begun(loads=("rpc",), logged=("rpc",)).window("rpc", piece("a#1:during", failed=3)).end(),
        "load rpc: none of its 3 operations was ok, so it shows nothing (see rpc.log)",
    ),
    "load-broken": (
        lambda: passing().tell(LoadBroken(load="rpc", how="raised", error="KeyError: 'x'")).end(),
        "load rpc broke once, and what it had under way is unknown: KeyError: 'x' (see journal-*.jsonl)",
    ),
    "load-unworkable": (
        lambda: passing().tell(LoadBroken(load="odd", how="unworkable", error="no mode: correct it")).end(),
        "load odd cannot work by its settings, and was not tried again: no mode: correct it (see journal-*.jsonl)",
    ),
    "no-outcome": (
        lambda: begun(loads=("rpc",)).operate(started=107).tell(LoadStopped(load="rpc", open=5)).end(),
        "load rpc: 2 operations begun of which nothing more was heard (see journal-*.jsonl)",
    ),
    "unreadable": (
        lambda: begun(loads=("rpc",)).window("rpc", Slice(ok=3, response=(1.0, 1.0, -5, 3))).end(),
        "load rpc: latencies of 1 slice could not be read (see journal-*.jsonl)",
    ),
    "never-fired": (
        lambda: begun(faults=("a",)).tell(DrawSkipped(fault="a", n=1, reason="x is held by b#1")).end(),
        "a never fired; 1 draw skipped: x is held by b#1 (see journal-*.jsonl)",
    ),
    "recovery-unseen": (
        lambda: begun(faults=("a",)).episode("a", recovered=None).end(),
        "a: nobody saw whether the system recovers from it: the run ended first (see evidence.csv)",
    ),
    "never-closed": (
        lambda: passing().intend(n=2).tell(FaultInjected(episode="restart-nats#2", took=0)).end(),
        "1 episode never closed, and their faults may still be in place: restart-nats#2; run soakd recover",
    ),
    "crash-not-captured": (
        lambda: passing().crash(captured=False, file=None).end(),
        "worker: the evidence of 1 crash could not be written: exit code 1 (see worker.mon.log)",
    ),
    "task-gave-up": (
        lambda: passing().tell(TaskCrashed(task="probes", error="E: e", traceback="", gave_up=True)).end(),
        "a part of soakd crashed until it was given up: probes (E: e) (see journal-*.jsonl)",
    ),
    "own-lag": (
        lambda: passing().tell(Observation(values={LAG: 1.001})).end(),
        "soakd's own event loop once lagged 1.001s (at most 1s is trusted): the machine was overloaded",
    ),
    "not-steady": (
        lambda: passing().tell(SteadyChanged(holds=False, failing=("tcp x",))).end(),
        "the steady state did not hold at the end: tcp x (see evidence.csv)",
    ),
    "probe-blind": (
        lambda: passing().tell(ProbeChanged(reading=BLIND)).end(),
        "probe tcp x could never look: no route to host (see journal-*.jsonl)",
    ),
    "nothing-looked": (
        lambda: Story().tell(*(r.event for r in begun().records[:3])).end(),
        "nothing looked at the system: there was neither load nor probe (see soak.yaml)",
    ),
}


@pytest.mark.parametrize("rule", FAILS)
def test_fails(rule: str) -> None:
    tell, reason = FAILS[rule]

    judgement = judge(tell().records)

    assert judgement.verdict is Verdict.FAIL
    assert judgement.findings[0].rule == rule
    assert judgement.reasons == (reason,)


@pytest.mark.parametrize("rule", DOUBTS)
def test_is_inconclusive(rule: str) -> None:
    tell, reason = DOUBTS[rule]

    judgement = judge(tell().records)

    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert [finding.rule for finding in judgement.findings] == [rule]
    assert judgement.reasons[0].startswith(reason)


def test_passes_when_nothing_speaks_against_it() -> None:
    judgement = judge(passing().end().records)

    assert (judgement.verdict, judgement.reasons) == (Verdict.PASS, ())


@pytest.mark.parametrize(
    "story",
    [
        begun().tell().end(),
        begun(loads=("rpc",)).operate().end(),
        begun(duration=None, loads=("rpc",)).operate().end(EndReason.SIGNAL, "SIGINT"),
        begun(loads=("rpc",)).operate().wait(61).end(EndReason.SIGNAL, "SIGTERM"),
        begun(loads=("rpc",)).operate().window("rpc", piece(ok=1, failed=50)).end(),
        begun(faults=("a",)).episode("a").tell(DrawSkipped(fault="a", n=2, reason="busy")).end(),
        begun(faults=("a",)).episode("a").episode("a", 2, recovered=None).end(),
        begun(faults=("a",)).episode("a").intend("a", 2).tell(FaultFailed(episode="a#2", error="e"))
        .tell(FaultUndone(episode="a#2"), EpisodeClosed(episode="a#2", recovered=True)).end(),
        begun().crash().end(),
        begun().tell(TaskCrashed(task="probes", error="E: e", traceback="")).end(),
        begun(loads=("rpc",)).operate().tell(LoadBroken(load="rpc", process="process 1 of 2", how="killed", error="e")).end(),
        begun(loads=("rpc",)).operate(started=105).tell(LoadStopped(load="rpc", open=5)).end(),
        begun().tell(Observation(values={LAG: 1.0})).end(),
        begun().tell(SteadyChanged(holds=False), SteadyChanged(holds=True)).end(),
        begun().end().tell(SteadyChanged(holds=False, failing=("units are stopped by now",))),
        begun().tell(ProbeChanged(reading=BLIND), ProbeChanged(reading=BLIND.model_copy(update={"ok": True}))).end(),
        begun().tell(OpenEvent(name="mine", data={"x": 1})).end(),
        begun().end().tell(HookRan(on="end", command="false", status="exit 1")),
        begun().end().tell(RunEnded(reason=EndReason.DIED)),
    ],
)  # fmt: skip
def test_what_does_not_speak_against_it(story: Story) -> None:
    assert judge(story.records).reasons == ()


@pytest.mark.parametrize(
    ("planned", "fired", "reason"),
    [
        ({}, 0, "a never fired"),
        ({}, 1, None),
        ({"a": 3}, 2, "a fired 2 of 3 times"),
        ({"a": 3}, 3, None),
        ({"a": 3}, 0, "a fired 0 of 3 times"),
    ],
)
def test_a_fault_with_fixed_times_must_fire_at_all_of_them(
    planned: dict[str, int], fired: int, reason: str | None
) -> None:
    story = begun(faults=("a",), planned=planned)
    for n in range(fired):
        story.episode("a", n + 1)

    reasons = judge(story.end().records).reasons

    assert [text.partition(" (see")[0] for text in reasons] == ([reason] if reason else [])


def test_an_inject_that_always_fails_is_a_fault_that_never_fired() -> None:
    story = begun(faults=("a",)).intend("a").tell(FaultFailed(episode="a#1", error="no such unit"))
    story.tell(FaultUndone(episode="a#1"), EpisodeClosed(episode="a#1", recovered=True, recovery=0.1))

    (reason,) = judge(story.end().records).reasons

    assert reason.startswith("a never fired; inject failed: a#1: no such unit")


def test_a_declared_probe_of_which_there_is_no_reading_is_blind() -> None:
    story = begun(probes=("http x", "tcp y")).tell(ProbeChanged(reading=Reading(probe="tcp y", ok=True)))

    (reason,) = judge(story.end().records).reasons

    assert reason.startswith("probe http x could never look: there is no reading of it")


def test_a_probe_of_an_episode_that_never_saw_anything_is_blind_too() -> None:
    story = passing().tell(Evidence(episode="restart-nats#1", when="during", readings=(BLIND,))).end()

    assert judge(story.records).findings[0].rule == "probe-blind"


def test_the_worst_comes_first_and_wins() -> None:
    judgement = judge(long_night().records)

    assert judgement.verdict is Verdict.FAIL
    ranks = [finding.verdict.rank for finding in judgement.findings]
    assert ranks == sorted(ranks, reverse=True)
    assert {Verdict.FAIL, Verdict.INCONCLUSIVE} == {finding.verdict for finding in judgement.findings}


def test_no_records_at_all_are_inconclusive() -> None:
    judgement = judge(())

    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert {"no-start", "no-end"} <= {finding.rule for finding in judgement.findings}


def test_a_run_healed_days_after_its_death_lasted_until_its_death() -> None:
    story = passing().wait(10).intend(n=2).tell(FaultInjected(episode="restart-nats#2", took=0)).wait(200_000)
    story.tell(FaultUndone(episode="restart-nats#2", by="recover"))
    story.tell(EpisodeClosed(episode="restart-nats#2", recovered=None), RunEnded(reason=EndReason.DIED))

    judgement = judge(story.records)

    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.reasons[0].startswith("the daemon died without a word, 23.5s into the soak")


def test_findings_do_not_grow_with_the_run() -> None:
    story = begun(units=("worker",), loads=("rpc",), faults=("a",))
    for n in range(1, 300):
        story.wait(10).episode("a", n, recovered=False).crash(captured=False).operate(ok=1)
        story.tell(JournalTrouble(what="dropped", detail=f"queue full {n}\n" * 1000))
        story.tell(InvariantViolated(invariant=f"i{n}", subject="s", detail="d"))
        story.tell(ProbeChanged(reading=BLIND.model_copy(update={"probe": f"tcp {n}"})))

    judgement = judge(story.end().records)

    assert len(judgement.findings) < 70
    assert all(len(text) < 2000 and "\n" not in text for text in judgement.reasons)
    assert "a#1, a#2, a#3, a#4, a#5 and 294 more" in " ".join(judgement.reasons)
