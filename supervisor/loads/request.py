"""The load of requests and replies over NATS."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import ClassVar, Final, Literal, Self

import anyio
from nats.aio.msg import Msg
from pydantic import Field, model_validator

from supervisor.journal.events import LoadStopped
from supervisor.loads.base import LoadContext
from supervisor.loads.clients import CONNECT, RESPONDER, SEEN, LoadClient, NotSentError, open_client
from supervisor.loads.executor import TIMEOUT, Executor, Failure
from supervisor.loads.identity import Identity, Writer
from supervisor.loads.nats_load import NatsLoad, Subject
from supervisor.loads.questions import NobodyError, Questions, UnansweredError
from supervisor.supervision import nursery

SERVICE_ERROR: Final = "Nats-Service-Error-Code"
"""Header with which a NATS micro service says that it failed."""
_SHOWN: Final = 60
"""Bytes of a payload in a sample."""


class RequestLoad(NatsLoad):
    """Requests over NATS, each an operation.

    It is ok if its answer comes in time; `timeout` if none does, which is indeterminate; failed if nobody listens, if a micro service
    answers with an error, or if the answer is not what was expected. Second answers, answers after the timeout and answers to
    nothing that was asked are counters: `duplicates`, `late_answers`, `unexpected`.
    """

    key: ClassVar[str] = "request"
    counters: ClassVar[tuple[str, ...]] = ("duplicates", "late_answers", "unexpected", *SEEN.values())
    shareable: ClassVar[bool] = True

    request: Subject = Field(description="The subject that requests go to.")
    payload: str | None = Field(
        None, description="What every request says; left out: which request it is, filled up to `size` bytes."
    )
    expect: Literal["any", "echo"] | None = Field(
        None, description="What an answer must be: `any`, or an `echo` of its request."
    )
    responder: Literal["system", "built_in"] = Field(
        "system", description="Who answers: the system under test, or soakd itself with an echo."
    )

    @model_validator(mode="after")
    def _whose(self) -> Self:
        if self.responder == "built_in" and self.expect == "any":
            raise ValueError("expect: the built-in responder always answers with an echo; leave expect out")
        return self

    @property
    def wants_echo(self) -> bool:
        """Whether an answer must be the request."""
        return self.expect == "echo" or self.responder == "built_in"

    async def run(self, context: LoadContext) -> None:
        """Ask until the load is to stop."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(open_client(context, self.client, self.connection))
            if self.responder == "built_in":
                other = await stack.enter_async_context(
                    open_client(context, "make_before_break", self.connection, RESPONDER)
                )
                await other.subscribe(self.request, partial(_echo, other), queue="soakd")
            questions = Questions(client, self.timeout, context.recorder.count)
            await questions.open()
            group = await stack.enter_async_context(nursery())
            group.start_soon(questions.run)
            if self.responder == "built_in":
                await self._wait_heard(questions)
            writer = Writer(Identity.new(context.run, context.name, context.process), self.size)
            open_ = await Executor(self, context, partial(self._ask, questions, writer)).run()
        context.recorder.flush()
        context.journal.emit(LoadStopped(load=context.name, open=open_))

    async def _wait_heard(self, questions: Questions) -> None:
        """Wait until the servers know of our own responder, which takes a moment in a cluster."""
        with anyio.fail_after(CONNECT):
            while True:
                try:
                    await questions.ask(self.request, b"")
                except (NobodyError, UnansweredError, NotSentError):
                    await anyio.sleep(0.02)
                else:
                    return

    async def _ask(self, questions: Questions, writer: Writer) -> Failure | None:
        payload = writer.next() if self.payload is None else self.payload.encode()
        try:
            answer = await questions.ask(self.request, payload)
        except UnansweredError:
            return TIMEOUT
        except NobodyError:
            return Failure("no responders")
        except NotSentError as error:
            return Failure(f"not sent: {error}")
        return self._judge(payload, answer)

    def _judge(self, payload: bytes, answer: Msg) -> Failure | None:
        if answer.headers and (code := answer.headers.get(SERVICE_ERROR)):
            return Failure(f"service error {code}", answer.headers.get("Nats-Service-Error", ""))
        if self.wants_echo and answer.data != payload:
            return Failure(
                "wrong answer", f"asked {payload[:_SHOWN]!r}, was answered {answer.data[:_SHOWN]!r}"
            )
        return None


async def _echo(client: LoadClient, msg: Msg) -> None:
    """Answer; an answer that cannot be sent is missed by who asked."""
    try:
        await client.publish(msg.reply, msg.data)
    except NotSentError:
        return
