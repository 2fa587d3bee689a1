from __future__ import annotations

import pickle

from judge_story import Story, piece

from supervisor.journal.events import (
    Cause,
    DrawSkipped,
    EpisodeClosed,
    EpisodeUnheard,
    Evidence,
    FaultFailed,
    FaultInjected,
    FaultUndone,
    Reading,
    UndoFailed,
    UnitCrashed,
    UnitExited,
)
from supervisor.judge.document import document
from supervisor.judge.episode import Episode, Outcome
from supervisor.judge.episodes import LISTED
from supervisor.judge.notes import notes
from supervisor.judge.tally import Tally
from supervisor.judge.verdict import judge


def tally(story: Story) -> Tally:
    total = Tally()
    for record in story.records:
        total.apply(record)
    return total


def only_episode(total: Tally) -> Episode:
    (episode,) = total.episodes.listed()
    return episode


def test_an_episode_has_its_times_targets_and_outcome() -> None:
    story = Story().begin(faults=("restart-nats",)).wait(40)
    story.intend(units=("nats1", "nats2")).wait(0.5).tell(FaultInjected(episode="restart-nats#1", took=0.5))
    story.wait(2).tell(FaultUndone(episode="restart-nats#1")).wait(3)
    story.tell(EpisodeClosed(episode="restart-nats#1", recovered=True, recovery=3.0))

    total = tally(story)

    episode = only_episode(total)
    assert (episode.fault, episode.n, episode.type) == ("restart-nats", 1, "restart")
    assert episode.targets == ("nats1", "nats2")
    assert episode.injected
    assert episode.undone
    assert episode.closed
    assert episode.injected.since(episode.intended) == 0.5
    assert episode.undone.since(episode.injected) == 2
    assert episode.closed.since(episode.undone) == 3
    assert episode.outcome is Outcome.RECOVERED
    assert total.episodes.faults["restart-nats"].recovery.highest == 3


def test_failures_belong_to_the_stage_they_are_marked_with_and_to_every_episode() -> None:
    story = Story().begin(loads=("rpc",), faults=("a", "b")).intend("a").intend("b").wait(1)
    story.window(
        "rpc",
        piece("a#1:direct", "b#1:recovering", ok=3, failed=1, indeterminate=1, error="timeout", took=0.25),
        piece("a#1:recovering", failed=4, error="refused"),
        piece(ok=10, failed=2, error="odd"),
    )

    total = tally(story)

    a, b = total.episodes.listed()
    assert a.damage.stages == {"direct": 2, "during": 0, "recovering": 4}
    assert b.damage.stages == {"direct": 0, "during": 0, "recovering": 2}
    assert a.damage.errors == {"timeout": 2, "refused": 4}
    assert a.damage.worst == 0.25
    assert total.episodes.faults["a"].damage == a.damage
    load = total.loads["rpc"]
    assert (load.failures, load.unexplained) == (8, 2)
    assert load.stages == {"direct": 2, "during": 0, "recovering": 4}, (
        "each operation once, in its earliest stage"
    )
    assert load.unexplained_errors == {"odd": 2}


def test_the_slowest_operation_of_a_stage_is_told_with_what_became_of_it() -> None:
    story = Story().begin(faults=("a",)).episode("a")
    failing = piece("a#1:during", ok=3, took=0.5, failed=1, slowest_failure=5.0, slowest_error="timeout")
    quick = piece("a#1:recovering", ok=3, took=0.5, failed=1, slowest_failure=0.01, slowest_error="refused")
    story.window("rpc", failing, quick)
    (episode,) = document(judge(story.end().records))["episodes"]

    assert episode["slowest"] == {"seconds": 5.0, "error": "timeout"}
    assert {name: stage["slowest"] for name, stage in episode["stages"].items()} == {
        "direct": None,
        "during": {"seconds": 5.0, "error": "timeout"},
        "recovering": {"seconds": 0.5, "error": None},
    }
    assert episode["worst_response_seconds"] == 0.5


def test_an_episode_of_which_a_process_heard_too_late_makes_its_part_of_the_run_uncertain() -> None:
    within = "load rpc: failures during a == 0"
    texts = (within, "load rpc: failures during b == 0", "load other: failures during a == 0")
    story = Story().begin(faults=("a", "b"), loads=("rpc", "other"), thresholds=texts)
    story.episode("a").tell(EpisodeUnheard(episode="a#1", loads=("rpc",))).episode("b")
    for name in ("rpc", "other"):
        story.window(name, piece("a#1:during", "b#1:during", ok=3))
    judged = judge(story.end().records)

    late = "a process of the load may have known of 1 episode too late: a#1"
    assert {one.text: one.verdict for one in judged.thresholds} == {
        within: "inconclusive",
        texts[1]: "pass",
        texts[2]: "pass",
    }
    assert late in judged.thresholds[0].why
    assert any(
        "load rpc: a process may have known of 1 episode too late" in note for note in notes(judged.tally)
    )


def test_operations_that_end_after_the_close_still_count_for_the_episode() -> None:
    story = Story().begin().episode().wait(5)
    story.window("rpc", piece("restart-nats#1:during", indeterminate=1))

    assert only_episode(tally(story)).damage.failures == 1


def test_after_a_close_without_recovery_nothing_is_explained() -> None:
    story = Story().begin().episode(recovered=False, recovery=None).wait(10).window("rpc", piece(failed=3))

    total = tally(story)

    assert only_episode(total).damage.failures == 0
    assert total.loads["rpc"].unexplained == 3


def test_times_to_the_first_failure_and_to_the_first_success() -> None:
    story = Story().begin().wait(10).intend().wait(1).tell(FaultInjected(episode="restart-nats#1", took=1))
    began = story.mono - 1
    story.wait(1).tell(FaultUndone(episode="restart-nats#1")).wait(4)
    story.window(
        "rpc", piece("restart-nats#1:direct", failed=1, ok=1, first_failure=began + 0.75, first_ok=began)
    )
    story.window("e2e", piece("restart-nats#1:during", failed=1, first_failure=began + 0.5))
    story.window("rpc", piece("restart-nats#1:recovering", ok=1, first_ok=began + 3.25))

    episode = only_episode(tally(story))

    assert episode.to_first_failure == 0.5
    assert episode.to_first_ok == 1.25, "from the end of undo, and of operations that began after it"


def test_a_crash_counts_for_the_episodes_it_is_marked_with() -> None:
    story = Story().begin(units=("worker",)).intend().crash(episodes=("restart-nats#1:direct",)).crash()

    total = tally(story)

    assert only_episode(total).damage.crashes == {"worker": 1}
    assert total.episodes.faults["restart-nats"].damage.crashes == {"worker": 1}
    assert (total.units["worker"].crashes, total.units["worker"].unexplained) == (2, 1)


def test_a_crash_of_a_unit_without_a_watchdog_is_explained_by_what_is_open() -> None:
    def gone(incarnation: str) -> UnitExited:
        return UnitExited(unit="worker", incarnation=incarnation, code=1, cause=Cause.CRASH)

    story = Story().begin(units=("worker",)).tell(gone("1")).intend().tell(gone("2"))

    unit = tally(story).units["worker"]

    assert (unit.crashes, unit.unexplained) == (2, 1)


def test_a_container_that_crashes_again_and_again_under_one_id_is_counted_each_time() -> None:
    story = Story().begin(units=("worker",))
    for _ in range(3):
        story.crash(incarnation="abc")

    unit = tally(story).units["worker"]

    assert (unit.crashes, unit.unexplained, unit.restarts) == (3, 3, 3)


def test_a_crash_whose_exit_was_lost_counts_too() -> None:
    story = (
        Story()
        .begin()
        .tell(UnitCrashed(unit="worker", incarnation="1", code=None, signal="SIGKILL", oom=True))
    )

    unit = tally(story).units["worker"]

    assert unit.crashes == 1
    assert list(unit.groups) == ["SIGKILL (out of memory)"]


def test_exits_that_are_no_crashes_are_not_counted_as_crashes() -> None:
    story = Story().begin(units=("worker",))
    for cause in (Cause.EPISODE, Cause.OPERATOR, Cause.OUTSIDE, Cause.RUN):
        story.tell(UnitExited(unit="worker", incarnation="1", code=0, cause=cause))

    unit = tally(story).units["worker"]

    assert unit.crashes == 0
    assert unit.exits == {"episode": 1, "operator": 1, "outside": 1, "run": 1}


def test_crashes_are_grouped_by_signature_with_their_first_files() -> None:
    story = Story().begin()
    for n in range(10):
        story.wait(1).crash(signature="KeyError" if n % 2 else "OSError", file=f"worker.crash.{n}.log")

    groups = tally(story).units["worker"].groups

    assert {name: group.count for name, group in groups.items()} == {"OSError": 5, "KeyError": 5}
    assert groups["OSError"].files == ["worker.crash.0.log", "worker.crash.2.log", "worker.crash.4.log"]
    assert groups["OSError"].last_file == "worker.crash.8.log"


def test_what_did_not_go_as_planned_is_told_by_fault() -> None:
    story = Story().begin(faults=("a",)).intend("a").tell(FaultFailed(episode="a#1", error="no such unit"))
    story.tell(UndoFailed(episode="a#1", attempt=1, error="e", broken="nats1 is down: start it"))
    story.tell(UndoFailed(episode="a#1", attempt=2, error="e", broken="nats1 is down: start it"))
    story.tell(
        FaultUndone(episode="a#1"), EpisodeClosed(episode="a#1", recovered=None, truncated="nats1 vanished")
    )
    story.tell(DrawSkipped(fault="a", n=2, reason="nats1 is held by b#1"))

    fault = tally(story).episodes.faults["a"]

    assert str(fault.inject_failed) == "a#1: no such unit"
    assert (fault.undo_failed.count, str(fault.undo_failed)) == (1, "a#1: nats1 is down: start it")
    assert str(fault.truncated) == "a#1: nats1 vanished"
    assert str(fault.skipped) == "nats1 is held by b#1"
    assert (fault.episodes, fault.injected, fault.unseen) == (1, 0, 1)


def test_evidence_stays_with_its_episode_also_what_was_seen_before_the_intent() -> None:
    ready, not_ready = Reading(probe="p", ok=True, value=200.0), Reading(probe="p", ok=False, value=503.0)
    story = Story().begin().tell(Evidence(episode="a#1", when="before", readings=(ready,))).intend("a")
    story.tell(Evidence(episode="a#1", when="during", readings=(not_ready,)))

    assert only_episode(tally(story)).evidence == [("before", ready), ("during", not_ready)]


def test_a_long_run_keeps_all_bad_episodes_the_latest_good_ones_and_exact_totals() -> None:
    story = Story().begin()
    count = LISTED + 500
    for n in range(1, count + 1):
        story.wait(40).episode(n=n, recovered=n % 100 != 0)
        story.window("rpc", piece(f"restart-nats#{n}:during", failed=1))

    episodes = tally(story).episodes

    listed = episodes.listed()
    assert len(listed) == LISTED
    assert [one.n for one in listed if not one.good] == list(range(100, count + 1, 100))
    assert listed[-1].n == count
    fault = episodes.faults["restart-nats"]
    assert (fault.episodes, fault.recovered, fault.not_recovered.count) == (count, count - 15, 15)
    assert fault.damage.stages["during"] == count


def test_a_run_of_nothing_but_bad_episodes_keeps_the_first_ones() -> None:
    story = Story().begin()
    for n in range(1, LISTED + 100):
        story.wait(40).episode(n=n, recovered=False)

    listed = tally(story).episodes.listed()

    assert [one.n for one in listed] == list(range(1, LISTED + 1))


def test_the_first_failures_are_told_with_what_was_open() -> None:
    story = Story().begin().wait(30).window("rpc", piece("a#1:during", failed=1, first_failure=5020.0))
    story.window("e2e", piece(failed=1, error="assert", first_failure=5025.0)).crash("worker")

    firsts = tally(story).firsts

    assert firsts["failed operation"].what == "rpc: timeout"
    assert firsts["failed operation"].episodes == ("a#1:during",)
    assert firsts["failed operation, unexplained"].what == "e2e: assert"
    assert firsts["failed operation"].moment.wall == story.records[0].wall + 20
    assert firsts["crash"] == firsts["crash, unexplained"]


def test_a_journal_of_days_needs_no_more_memory_than_one_of_hours() -> None:
    def size(windows: int) -> int:
        total = Tally()
        for n in range(windows):
            story = Story().wait(n * 10).operate(ok=3, took=0.01 * (n % 50), counters={"lost": 0})
            story.window("rpc", piece(failed=1, error=f"error {n % 100}", first_failure=story.mono))
            story.crash(signature=f"signature {n % 100}").tell(
                UndoFailed(episode="a#1", attempt=n, error="", broken="")
            )
            for record in story.records:
                total.apply(record)
        return len(pickle.dumps(total))

    assert size(2000) < size(500) * 1.05
