"""The load of compare-and-set registers in a key-value bucket, and a watch on them."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, ClassVar, Final, Literal

import anyio
from pydantic import Field, StringConstraints
from pydantic_core import from_json

from supervisor.broker import api
from supervisor.broker.connection import BrokerError, Handle
from supervisor.journal.events import InvariantViolated, LoadStopped
from supervisor.loads.base import LoadContext, may_remove
from supervisor.loads.clients import CONNECT, SEEN, NotSentError, open_client
from supervisor.loads.executor import Executor, Failure
from supervisor.loads.identity import Identity, Writer
from supervisor.loads.made import bucket, make, remove
from supervisor.loads.nats_load import NatsLoad
from supervisor.loads.publishing import CONFLICT, compare_and_set, subject_prefix
from supervisor.loads.questions import NobodyError, Questions, UnansweredError
from supervisor.loads.registers import Register, Verdict
from supervisor.loads.watched import Watched
from supervisor.supervision import nursery
from supervisor.values import Duration, Share

RETRY: Final = 0.25
"""Seconds between two attempts of one operation."""
HISTORY: Final = 64
"""Revisions of a register that the bucket keeps: the most there can be, so that a watch that was away misses little."""
PATIENCE: Final = 2.0
"""Seconds at the end for what the watch has not told yet, and as long for the last look."""
TOLD: Final = 20
"""Violations that are told with all their details; the others are only counted."""
COUNTERS: Final = ("forks", "stale_writes", "stale_reads", "spurious_conflicts", "unexpected")
WRITTEN: Final = (*COUNTERS, "watch_gaps", "watch_reordered")
"""What can only be wrong once something was written: 0 is said of them at the first write."""
_INVARIANT: Final = "one write at most replaces a revision, and none that was acknowledged is lost"
_VIOLATIONS: Final = ("forks", "stale_writes", "lost_updates", "unexpected")
_AGAIN: Final = ("not sent", "no stream response")
"""How the errors begin of what certainly did not happen, and may be tried again."""


class KvLoad(NatsLoad):
    """Registers in a bucket, each operation a read or a compare-and-set.

    It is ok if it is answered, a conflict with another write included (`conflicts`). Counters: `attempts`; `forks` (two writes that
    won the same revision), `stale_writes` (accepted though its revision was known to be replaced), `lost_updates` (acknowledged, and
    gone later), `stale_reads`, `spurious_conflicts` (refused though nothing can have replaced the revision), `unexpected` (a value
    that was not written); of a watch `watch_gaps`, `watch_reordered`, `superseded`.
    """

    key: ClassVar[str] = "kv"
    counters: ClassVar[tuple[str, ...]] = (
        *("attempts", "conflicts", "superseded", "unchecked", "undecided"),
        *SEEN.values(),
    )
    settled: ClassVar[tuple[str, ...]] = (*WRITTEN, "lost_updates")
    shareable: ClassVar[bool] = True

    kv: Annotated[str, StringConstraints(pattern=r"^[-\w]{1,64}$")] = Field(
        description="The bucket, made by the load and removed at the end if nothing was wrong."
    )
    registers: int = Field(10, ge=1, le=10_000, description="How many keys there are to write.")
    reads: Share = Field(
        0.5, description="The share of operations that are reads; the others compare and set."
    )
    read: Literal["leader", "direct"] = Field(
        "leader",
        description="Whom reads ask: the bucket's leader, or any of its replicas, which may be behind.",
    )
    replicas: int = Field(1, ge=1, le=5, description="Of a bucket that is made.")
    existing: bool = Field(
        False,
        description="Use a bucket that exists already, under keys of the load's own, which are removed at the end.",
    )
    settle: Duration = Field(10.0, gt=0, description="How long after a write the watch may tell of it.")

    async def run(self, context: LoadContext) -> None:
        """Read and write until the load is to stop, then look what is left of it."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(open_client(context, self.client, self.connection))
            assert context.connections is not None  # noqa: S101  # `open_client` has looked
            handle = await stack.enter_async_context(
                await context.connections.new(self.connection, f"load {context.name} watch")
            )
            await handle.wait_connected(CONNECT)
            questions = Questions(client, self.timeout, lambda *_: None)
            await questions.open()
            flow = await stack.enter_async_context(self._prepared(context, handle, questions))
            group = await stack.enter_async_context(nursery())
            for task in (questions.run, flow.watched.run, flow.look):
                group.start_soon(task)
            with anyio.fail_after(CONNECT):
                await flow.watched.ready.wait()
            open_ = await Executor(self, context, flow.operate).run()
            await flow.last_look()
        context.recorder.flush()
        context.journal.emit(LoadStopped(load=context.name, open=open_))

    @asynccontextmanager
    async def _prepared(
        self, context: LoadContext, handle: Handle, questions: Questions
    ) -> AsyncGenerator[_Flow]:
        """Make the bucket; on the way out, if nothing was wrong, leave the broker as it was."""
        config = bucket(self.kv, replicas=self.replicas, history=HISTORY)
        with anyio.fail_after(CONNECT):
            ours = await make(handle, context.run, config, existing=self.existing)
        flow = _Flow(self, context, handle, questions)
        yield flow
        whole = may_remove(context, sound=not flow.wrong)
        if ours and whole:
            assert context.connections is not None  # noqa: S101  # `open_client` has looked
            shared = await context.connections.handle(self.connection)  # ours ends with the load
            await remove(context, shared, config["name"])
        elif not ours and not flow.wrong:
            await _purge(handle, config["name"], f"{flow.keys}>")


class _Flow:
    """Registers of one life of the load."""

    def __init__(self, load: KvLoad, context: LoadContext, handle: Handle, questions: Questions) -> None:
        self._load, self._context, self._handle, self._questions = load, context, handle, questions
        self._count = context.recorder.count
        self._stream = f"KV_{load.kv}"
        self._writer = Writer(Identity.new(context.run, context.name, context.process), load.size)
        identity = self._writer.identity
        self.keys = f"$KV.{load.kv}.soakd-{identity.epoch}-{identity.writer}."
        self._prefix = subject_prefix(handle) + self.keys
        self._registers = [Register() for _ in range(load.part(load.registers, context))]
        self._chance = random.Random(f"{context.seed}/{context.name}/kv/{context.process}")  # noqa: S311  # draws are to be repeatable
        self.watched = Watched(handle, self._stream, f"{self.keys}>", load.settle, self._count)
        self.wrong = 0
        self._written = False
        if (
            context.processes > 1
        ):  # all of them have to say so, for it to be believed, though one may never write
            self._has_written()

    async def operate(self) -> Failure | None:
        """Read a register, and mostly write it after that, in as many attempts as the time allows."""
        index = self._chance.randrange(len(self._registers))
        deadline = time.monotonic() + self._load.timeout
        seen = await self._persist(lambda: self._read(index), deadline)
        if isinstance(seen, Failure) or self._chance.random() < self._load.reads:
            return seen if isinstance(seen, Failure) else None
        answer = await self._persist(lambda: self._write(index, seen), deadline)
        return answer if isinstance(answer, Failure) else None

    async def _persist(
        self, attempt: Callable[[], Awaitable[int | Failure]], deadline: float
    ) -> int | Failure:
        """Try again what certainly did not happen."""
        while True:
            self._count("attempts", 1)
            answer = await attempt()
            if isinstance(answer, int) or not answer.error.startswith(_AGAIN):
                return answer
            if time.monotonic() + RETRY >= deadline:
                return answer
            await anyio.sleep(RETRY)

    async def _write(self, index: int, expected: int) -> int | Failure:
        register, payload, began = self._registers[index], self._writer.next(), time.monotonic()
        n = self._writer.n
        register.begin(n, expected)
        try:
            answer = await compare_and_set(self._questions, f"{self._prefix}r{index}", payload, expected)
        except BaseException:
            register.unanswered(n)  # cut off by the end of the run
            raise
        if isinstance(answer, int):
            self._has_written()
            self.watched.changed(answer)
            self._judge(index, register.accepted(n, answer, began, time.monotonic()))
        elif answer is CONFLICT:
            self._count("conflicts", 1)
            self._judge(index, register.refused(n))
            return 0
        elif answer.error.startswith(_AGAIN):
            register.not_sent(n)
        else:
            register.unanswered(n)
        return answer

    def _has_written(self) -> None:
        if not self._written:
            self._written = True
            for name in WRITTEN:
                self._count(name, 0)

    async def _read(self, index: int) -> int | Failure:
        """Return the present revision, 0 if there is none."""
        began = time.monotonic()
        found = await self._get(index)
        if isinstance(found, Failure):
            return found
        revision, payload = found
        n = self._writer.read(payload) if revision else 0
        self._judge(
            index, self._registers[index].read(revision, -1 if n is None else n, began, time.monotonic())
        )
        return revision

    async def _get(self, index: int) -> tuple[int, bytes] | Failure:
        key, prefix = f"{self.keys}r{index}", self._handle.api_prefix
        try:
            if self._load.read == "direct":
                answer = await self._questions.ask(f"{prefix}.DIRECT.GET.{self._stream}.{key}", b"")
                return _direct(answer.headers or {}, answer.data)
            body = f'{{"last_by_subj": "{key}"}}'.encode()
            return _told((await self._questions.ask(f"{prefix}.STREAM.MSG.GET.{self._stream}", body)).data)
        except UnansweredError:
            return Failure("timeout")  # nothing can have come of it
        except NobodyError:
            return Failure("no stream response")
        except NotSentError as error:
            return Failure(f"not sent: {error}")

    async def look(self) -> None:
        """Look once a second what the watch has not told, for ever."""
        while True:
            await anyio.sleep(1)
            try:
                await self.watched.look()
            except BrokerError:
                continue  # nothing is decided on silence

    async def last_look(self) -> None:
        """Wait for the watch, and read every register once more: what was acknowledged must still be there."""
        decided = 0

        async def look(index: int) -> None:
            nonlocal decided
            for left in (2, 1, 0):
                found = await self._last(index)
                if found is None:
                    return
                verdict = self._registers[index].last(found)
                if verdict is None or not left:  # a read that is stale for once is no loss
                    break
            decided += 1
            self._judge(index, verdict)

        with anyio.move_on_after(PATIENCE):
            while self.watched.owed:  # noqa: ASYNC110  # they are told one by one
                await anyio.sleep(0.02)
        with anyio.move_on_after(PATIENCE):
            await api.each(range(len(self._registers)), look)
        undecided = len(self._registers) - decided
        self._count("undecided", undecided + self.watched.owed)
        if self._written and not undecided:
            self._count("lost_updates", 0)

    async def _last(self, index: int) -> int | None:
        try:
            body = {"last_by_subj": f"{self.keys}r{index}"}
            answer = await api.call(self._handle, f"STREAM.MSG.GET.{self._stream}", body, deadline=PATIENCE)
        except api.ApiError as error:
            return 0 if error.err_code == api.MESSAGE_NOT_FOUND else None
        except BrokerError:
            return None
        return int(answer["message"]["seq"])

    def _judge(self, index: int, verdict: Verdict | None) -> None:
        if verdict is None:
            return
        self._count(verdict.what, 1)
        self.wrong += 1
        if self.wrong <= TOLD and verdict.what in _VIOLATIONS:
            self._context.journal.emit(
                InvariantViolated(
                    invariant=_INVARIANT,
                    subject=f"load {self._context.name}: {self._load.kv} {self.keys}r{index}",
                    detail=f"{verdict.what}: {verdict.detail}",
                    data={"register": index, "what": verdict.what},
                )
            )


def _direct(headers: dict[str, str], data: bytes) -> tuple[int, bytes] | Failure:
    if "Nats-Sequence" in headers:
        return int(headers["Nats-Sequence"]), data
    status = headers.get("Status", "none")
    return (0, b"") if status == "404" else Failure(f"status {status}", headers.get("Description", ""))


def _told(data: bytes) -> tuple[int, bytes] | Failure:
    try:
        answer = from_json(data)
        if refused := answer.get("error"):
            code = refused.get("err_code", "?")
            missing = code == api.MESSAGE_NOT_FOUND
            return (0, b"") if missing else Failure(f"error {code}", str(refused.get("description", "")))
        message = answer["message"]
        return int(message["seq"]), base64.b64decode(message.get("data", ""))
    except (ValueError, KeyError, AttributeError, TypeError):
        return Failure("wrong answer", repr(data[:80]))


async def _purge(handle: Handle, stream: str, subject: str) -> None:
    with anyio.move_on_after(1, shield=True):
        try:
            await api.call(handle, f"STREAM.PURGE.{stream}", {"filter": subject})
        except BrokerError:
            return
