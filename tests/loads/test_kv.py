from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from false_jetstream import FalseJetStream, playing
from load_bench import WHOLE, Bench
from nats_bench import NatsBench
from pydantic import ValidationError

from supervisor.broker import api
from supervisor.broker.connection import BrokerError
from supervisor.journal.events import InvariantViolated
from supervisor.loads.kv import KvLoad
from supervisor.loads.registers import KEPT, Register, Verdict

WRONG = (
    "failed",
    "indeterminate",
    "forks",
    "stale_writes",
    "stale_reads",
    "spurious_conflicts",
    "lost_updates",
    "unexpected",
    "watch_gaps",
    "watch_reordered",
)


def load(**entry: Any) -> KvLoad:
    return KvLoad.model_validate(
        {"kv": "REGISTERS", "workers": 10, "registers": 3, "timeout": "20s", **entry}
    )


def wrong(bench: Bench) -> set[str]:
    return {name for name in WRONG if bench.counts.get(name)}


# --- the register --------------------------------------------------------------------------------------------------------


def what(verdict: Verdict | None) -> str:
    return verdict.what if verdict else ""


def written(expected: int = 0, revision: int = 5) -> Register:
    """A register that one write has brought from a revision to another, from time 0 to 1."""
    register = Register()
    register.begin(1, expected)
    assert register.accepted(1, revision, 0, 1) is None
    return register


def test_two_winners_of_one_revision_are_a_fork() -> None:
    register = written()
    register.begin(2, 0)
    assert what(register.accepted(2, 6, 0.5, 1.5)) == "forks"


def test_a_winner_that_came_later_wrote_on_what_was_stale() -> None:
    register = written()
    register.begin(2, 0)
    assert what(register.accepted(2, 6, 2, 3)) == "stale_writes"
    register.begin(3, 3)  # of a revision nobody knows who replaced it
    assert what(register.accepted(3, 7, 4, 5)) == "stale_writes"


def test_a_read_that_began_later_must_not_be_older() -> None:
    register = written()
    assert register.read(0, 0, 0.5, 3) is None, "it may have been asked before"
    assert what(register.read(0, 0, 2, 3)) == "stale_reads"
    assert register.read(5, 1, 2, 3) is None
    assert register.read(9, 4, 3, 4) is None, "a write that has not been answered yet"
    assert what(register.read(5, 1, 5, 6)) == "stale_reads", "reads never go back either"
    assert what(register.read(9, 3, 5, 6)) == "unexpected"


def test_a_refusal_needs_a_reason() -> None:
    register = written()
    register.begin(2, 5)
    assert what(register.refused(2)) == "spurious_conflicts"
    register.begin(3, 0)
    assert register.refused(3) is None, "it was replaced"
    register.begin(4, 5)
    register.begin(5, 5)
    assert register.refused(4) is None, "the other may have won"
    assert what(register.refused(5)) == "spurious_conflicts", "one of them should have"
    register.begin(6, 5)
    register.unanswered(6)
    register.begin(7, 5)
    assert register.refused(7) is None, "the one that was not answered may have won"


def test_an_unanswered_write_may_have_happened_or_not() -> None:
    for happened in (True, False):
        register = written()
        register.begin(2, 5)
        register.unanswered(2)
        if happened:
            assert register.read(6, 2, 2, 3) is None
            register.begin(3, 5)
            assert register.refused(3) is None
            register.begin(4, 5)
            assert what(register.accepted(4, 7, 4, 5)) == "stale_writes", "now it is known"
        else:
            register.begin(3, 5)
            assert register.accepted(3, 6, 2, 3) is None
            assert what(register.read(7, 2, 4, 5)) in ("forks", "stale_writes"), "both were there in the end"


def test_what_was_acknowledged_stays() -> None:
    register = written()
    assert register.last(5) is None
    assert register.last(8) is None
    assert what(register.last(4)) == "lost_updates"
    register.begin(2, 5)
    assert what(register.accepted(2, 4, 2, 3)) == "lost_updates", "revisions never go back"


def test_memory_is_bounded_and_what_was_forgotten_accuses_nobody() -> None:
    register = Register()
    for n in range(1, 3 * KEPT):
        register.begin(n, n - 1)
        assert register.accepted(n, n, n, n + 0.5) is None
    register.begin(0, 1)
    register.unanswered(0)
    assert len(register._winners) == len(register._values) == len(register._known) == KEPT
    assert register.read(2, 2, 0, 5 * KEPT) is None
    for n in range(10**6, 10**6 + 2 * KEPT):
        register.begin(n, register.high)
        register.unanswered(n)
    assert len(register._unanswered) == KEPT
    register.begin(-1, register.high)
    assert register.refused(-1) is None


# --- on a real server ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("read", "client"), [("leader", "default"), ("direct", "make_before_break")])
async def test_a_bucket_that_is_right_passes(nats_bench: NatsBench, read: str, client: str) -> None:
    async with nats_bench.running(load(read=read, client=client)) as context:
        await nats_bench.until_ok(context, 1000)
    counts = nats_bench.counts
    assert wrong(nats_bench.bench) == set()
    assert counts["ok"] == counts["scheduled"]
    assert counts["conflicts"] > 0
    assert counts["attempts"] > counts["ok"]
    looked = {name for window in nats_bench.windows for name in window.counters}
    assert looked >= set(WRONG) - {"failed", "indeterminate"}, "looked at, and zero"
    assert not counts.get("undecided")
    assert nats_bench.bench.connections
    assert await api.stream_names(await nats_bench.bench.connections.handle()) == set()


async def test_what_was_there_before_is_left_as_it_was(nats_bench: NatsBench) -> None:
    assert nats_bench.bench.connections
    handle = await nats_bench.bench.connections.handle()
    theirs = {"name": "KV_REGISTERS", "subjects": ["$KV.REGISTERS.>"], "allow_direct": True}
    await api.call(handle, "STREAM.CREATE.KV_REGISTERS", theirs)
    await handle.request("$KV.REGISTERS.theirs", b"value")
    with anyio.fail_after(WHOLE), pytest.raises(BrokerError, match="existing: true"):
        await load().run(nats_bench.bench.context("load"))
    async with nats_bench.running(load(existing=True)) as context:
        await nats_bench.until_ok(context, 100)
    assert wrong(nats_bench.bench) == set()
    state = (await api.call(handle, "STREAM.INFO.KV_REGISTERS"))["state"]
    assert state["messages"] == 1


async def test_a_server_that_stood_still_makes_nobody_guilty(nats_bench: NatsBench) -> None:
    async with nats_bench.running(load(timeout="500ms")) as context:
        await nats_bench.until_ok(context, 200)
        while not nats_bench.counts.get(
            "indeterminate"
        ):  # at times none of the ten was writing when it froze
            timeouts = int(nats_bench.counts.get("timeout", 0))
            async with nats_bench.frozen():
                await nats_bench.bench.until_counted(context, "timeout", timeouts + 10)
            await nats_bench.until_ok(context, int(nats_bench.counts["ok"]) + 10)
        before = int(nats_bench.counts["ok"])
        await nats_bench.until_ok(context, before + 200)
    assert wrong(nats_bench.bench) <= {"failed", "indeterminate"}
    assert nats_bench.counts["timeout"] >= nats_bench.counts["indeterminate"]


# --- buckets that are wrong ------------------------------------------------------------------------------------------------


class Honest(FalseJetStream):
    """As it should be."""


class Forks(FalseJetStream):
    """Accepts now and then a write on a revision that has just been replaced."""

    def accepts(self, _: str, expected: int, found: int) -> bool:
        return expected == found or next(self.published) % 5 == 0


class ShowsOld(FalseJetStream):
    """Shows now and then what a register was before."""

    def shown(self, subject: str) -> tuple[int, bytes] | None:
        history = [(n, payload) for n, of, payload in self.log if of == subject]
        old = len(history) > 20 and next(self.published) % 20 == 0
        return history[-20] if old else super().shown(subject)


class Refuses(FalseJetStream):
    """Refuses now and then for no reason."""

    def accepts(self, _: str, expected: int, found: int) -> bool:
        return expected == found and next(self.published) % 10 != 0


class TellsNotAll(FalseJetStream):
    """Leaves a change out of the watch."""

    def tells(self, sequence: int) -> bool:
        return sequence % 20 != 0


class Scrambles(FalseJetStream):
    """Shows another value than was written."""

    def shown(self, subject: str) -> tuple[int, bytes] | None:
        found = super().shown(subject)
        if found and next(self.published) % 20 == 0:
            return found[0], b"something else"
        return found


@pytest.mark.parametrize(
    ("kind", "caught", "also"),
    [
        (Honest, set(), set()),
        (Forks, {"forks"}, {"stale_writes"}),
        (ShowsOld, {"stale_reads"}, set()),
        (Refuses, {"spurious_conflicts"}, set()),
        (TellsNotAll, {"watch_gaps"}, set()),
        (Scrambles, {"unexpected"}, set()),
    ],
)
async def test_a_bucket_that_is_wrong_is_caught(
    bare_bench: NatsBench, kind: type[FalseJetStream], caught: set[str], also: set[str]
) -> None:
    workers, settle = 1 if kind is Refuses else 10, "1s" if kind is TellsNotAll else "10s"
    asked = load(settle=settle, workers=workers)
    async with playing(bare_bench.server, kind) as false, bare_bench.running(asked) as context:
        await bare_bench.until_ok(context, 200)
        for name in caught:
            await bare_bench.bench.until_counted(context, name, 2)
    assert caught <= wrong(bare_bench.bench) <= caught | also
    if caught & {"forks", "unexpected"}:
        assert any(isinstance(event, InvariantViolated) for event in bare_bench.bench.events)
        assert false.streams, "kept as evidence"


async def test_an_acknowledged_write_that_is_gone_is_caught(bare_bench: NatsBench) -> None:
    async with (
        playing(bare_bench.server) as false,
        bare_bench.running(load(reads="0%", registers=1)) as context,
    ):
        await bare_bench.until_ok(context, 50)
        context.stop.set()
        await anyio.lowlevel.checkpoint()
        subject = next(iter(false.last))
        false.shown = lambda _: (1, false.last[subject][1])  # type: ignore[method-assign]
    assert wrong(bare_bench.bench) >= {"lost_updates"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [({"kv": "a b"}, "pattern"), ({"registers": 0}, "greater"), ({"read": "me"}, "leader")],
)
def test_what_cannot_be(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        load(**entry)
