"""The load of requests over HTTP."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, ClassVar, Final, Self

import anyio
from anyio.abc import TaskGroup
from pydantic import BeforeValidator, Field, JsonValue, model_validator

from supervisor.answers import WrongAnswerError, decoded, walk
from supervisor.journal.events import LoadStopped
from supervisor.kinds import Strict
from supervisor.loads.base import LoadContext
from supervisor.loads.executor import Executor, Failure
from supervisor.loads.identity import Identity
from supervisor.loads.pace import Paced
from supervisor.loads.web import IDEMPOTENT, Answer, Browser, HttpRequest, open_browser
from supervisor.supervision import nursery
from supervisor.values import Duration, Share, format_duration

RETRY: Final = 0.1
"""Seconds before an operation is tried again."""
LAST: Final = 2.0
"""Seconds at the end for what is sent again."""
_AGAIN: Final = ("connect", "timeout", "disconnected", "status 429", "status 5")
"""What may be otherwise the next time."""


_Ask = Callable[[float], Awaitable[Answer | Failure]]


class Replay(Strict):
    """Operations that are sent again though they were answered, as a client does that missed the answer."""

    share: Share = Field(gt=0, description="How many of the operations that were ok.")
    same: str = Field(
        min_length=1, description="The path in the JSON answer of what must be the same both times."
    )


class HttpCall(HttpRequest):
    """A request, and when it is sent again."""

    idempotency_key: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="A header that tells the operation's own id, drawn for each and the same when it is tried again.",
    )
    retries: int = Field(0, ge=0, le=100, description="How often it is tried again within `timeout`.")
    replay: Replay | None = Field(None, description="Send some again that were answered.")

    @model_validator(mode="after")
    def _harmless(self) -> Self:
        if (self.retries or self.replay) and self.method not in IDEMPOTENT and not self._tells_itself:
            raise ValueError(
                f"a {self.method} that is sent again may happen twice: add idempotency_key, or write {{operation}} "
                "into its body, by which the system can tell"
            )
        return self

    @property
    def _tells_itself(self) -> bool:
        return bool(self.idempotency_key) or "{operation}" in str(self.body) + self.url


def _call(written: object) -> object:
    """A URL alone means a request for it."""
    return {"url": written} if isinstance(written, str) else written


class HttpLoad(Paced):
    """Requests over HTTP, each an operation.

    It is ok if the answer is as expected. Error classes: `connect` (never sent), `timeout` and `disconnected` (indeterminate, unless
    the method changes nothing), `status N`, `wrong answer`. It may take several attempts, all with one idempotency key; one of which
    any attempt went unanswered is indeterminate. Counters: `attempts`; `replayed` and, of those, `duplicates`.
    """

    key: ClassVar[str] = "http"
    counters: ClassVar[tuple[str, ...]] = ("attempts", "replayed")
    settled: ClassVar[tuple[str, ...]] = ("duplicates",)
    shareable: ClassVar[bool] = True

    http: Annotated[HttpCall, BeforeValidator(_call, json_schema_input_type=str | HttpCall)] = Field(
        description="The request, or its URL alone."
    )
    timeout: Duration = Field(5.0, gt=0, description="How long an operation may take.")
    attempt: Duration | None = Field(
        None, gt=0, description="How long one attempt may take; left out: an equal part of the timeout."
    )

    @model_validator(mode="after")
    def _one_attempt_fits(self) -> Self:
        if self.attempt and self.attempt > self.timeout:
            raise ValueError(
                f"attempt: expected no more than the {format_duration(self.timeout)} of timeout, which an operation may take"
            )
        return self

    async def run(self, context: LoadContext) -> None:
        """Send requests until the load is to stop."""
        async with open_browser() as browser, nursery() as group:
            flow = _Flow(self, context, browser, group)
            open_ = await Executor(self, context, flow.operate).run()
            await flow.finish()
        context.recorder.flush()
        context.journal.emit(LoadStopped(load=context.name, open=open_))


class _Flow:
    """Operations of one life of the load."""

    def __init__(self, load: HttpLoad, context: LoadContext, browser: Browser, group: TaskGroup) -> None:
        self._load, self._browser, self._count = load, browser, context.recorder.count
        self._group = group
        self._replaying = 0
        self._call = load.http
        self._attempt = load.attempt or load.timeout / (1 + load.http.retries)
        identity = Identity.new(context.run, context.name, context.process)
        self._prefix = f"{identity.run}-{identity.load}-{identity.epoch}-{identity.writer}-"
        self._n = 0
        self._chance = random.Random(f"{context.seed}/{context.name}/replay/{context.process}")  # noqa: S311  # draws are to be repeatable
        if self._call.replay:
            self._count("duplicates", 0)

    async def operate(self) -> Failure | None:
        """Do one operation, in as many attempts as its time and the soak file allow."""
        self._n += 1
        ask = partial(self._ask, f"{self._prefix}{self._n}")
        deadline, unsure = time.monotonic() + self._load.timeout, None
        for left in range(self._call.retries, -1, -1):
            answer = await ask(min(self._attempt, max(deadline - time.monotonic(), 0.001)))
            failure = self._judge(answer, ask)
            if failure is None:
                return None
            unsure = failure if failure.outcome == "indeterminate" else unsure
            if not (left and failure.error.startswith(_AGAIN) and time.monotonic() + RETRY < deadline):
                break
            await anyio.sleep(RETRY)
        return unsure or failure

    def _judge(self, answer: Answer | Failure, ask: _Ask) -> Failure | None:
        if isinstance(answer, Failure):
            return answer
        return self._call.judge(answer) or self._draw_replay(answer, ask)

    async def _ask(self, operation: str, seconds: float) -> Answer | Failure:
        self._count("attempts", 1)
        key = self._call.idempotency_key
        words = {"operation": operation}
        return await self._browser.ask(self._call, words, seconds, {key: operation} if key else None)

    def _draw_replay(self, answer: Answer, ask: _Ask) -> Failure | None:
        """Send some again, but not as part of an operation's time, and no more at once than operations are under way."""
        replay = self._call.replay
        if not replay or self._chance.random() >= replay.share or self._replaying >= self._load.in_flight:
            return None
        try:
            first = walk(decoded(answer.text), replay.same)
        except WrongAnswerError as error:
            return Failure("wrong answer", str(error))
        self._replaying += 1
        self._group.start_soon(self._replay, ask, replay.same, first)
        return None

    async def _replay(self, ask: _Ask, same: str, first: JsonValue) -> None:
        """Look whether the system knows an operation again. One that goes unanswered says nothing."""
        again = await ask(self._attempt)
        self._replaying -= 1
        if isinstance(again, Failure) or again.status >= 500:
            return
        self._count("replayed", 1)
        try:
            known = walk(decoded(again.text), same) == first
        except WrongAnswerError:
            known = again.status == 409  # a conflict is an answer too: it has it already
        if not known:
            self._count("duplicates", 1)

    async def finish(self) -> None:
        """Wait for what is sent again."""
        with anyio.move_on_after(LAST):
            while self._replaying:  # noqa: ASYNC110  # they end one by one
                await anyio.sleep(0.02)
