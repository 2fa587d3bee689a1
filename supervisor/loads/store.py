"""An event store on a stream, as an application uses one: look at the last event, append on a condition, read back by a consumer."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import anyio
from nats.aio.msg import Msg
from pydantic_core import from_json

from supervisor.broker import api
from supervisor.loads.aggregates import Appended, Stored
from supervisor.loads.clients import LoadClient, NotSentError
from supervisor.loads.consumers import Consumers
from supervisor.loads.executor import TIMEOUT, Failure
from supervisor.loads.fetches import Fetches, place
from supervisor.loads.identity import Writer
from supervisor.loads.questions import NobodyError, Questions, UnansweredError

RETRY: Final = 0.25
"""Seconds between two attempts of one request."""
CONFLICTS: Final = frozenset({10071, 10164})
"""Errors that say: wrong last sequence (nats-server's JSStreamWrongLastSequenceErrF and ...ConstantErr)."""
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
ANSWERS: Final = {
    "duplicates": "double_answers",
    "late_answers": "late_answers",
    "unexpected": "unexpected_answers",
}


class GaveUpError(Exception):
    """Something could not be done in its time."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure = failure


class RefusedError(Exception):
    """The store answered with an error that its caller has a use for."""

    def __init__(self, code: int, text: str, *, unsure: bool) -> None:
        super().__init__(f"{text} ({code})")
        self.unsure = unsure
        """An attempt before this one went unanswered."""


class Append(NamedTuple):
    """One append, and what came of it."""

    n: int
    """Which event it was."""
    appended: Appended | None = None
    conflict: str = ""
    """What the store said when it refused because the last event was another."""
    unsure: bool = False
    """Some attempt went unanswered."""
    failure: Failure | None = None


class Store:
    """One life's way to the stream. `questions.run` is the task behind it."""

    def __init__(
        self,
        client: LoadClient,
        writer: Writer,
        count: Callable[[str, float], None],
        *,
        stream: str,
        prefix: str,
        attempt: float,
        fetch: int,
        consumers: Consumers,
    ) -> None:
        """`prefix` is where the JetStream API is; `attempt`: seconds for one request; `fetch`: messages that one fetch asks for."""
        self._client, self._writer, self._count = client, writer, count
        self._stream, self._prefix, self._fetch, self._consumers = stream, prefix, fetch, consumers
        self.questions = Questions(client, attempt, lambda name, amount: count(ANSWERS[name], amount))
        self._fetches = Fetches(client, prefix)

    async def open(self) -> None:
        """Subscribe to answers and messages."""
        await self.questions.open()
        await self._fetches.open()

    # --- appending ---------------------------------------------------------------------------------------------------

    async def last(self, subject: str, deadline: float) -> Stored | None:
        """Return the last event of an aggregate as the stream's leader has it, None if there is none; GaveUpError."""
        try:
            answer = await self._call(
                f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": subject}, deadline, {api.MESSAGE_NOT_FOUND}
            )
        except RefusedError:
            return None
        message = answer["message"]
        return self._stored(int(message["seq"]), base64.b64decode(message.get("data") or ""))

    async def holds(self, event: Appended, deadline: float) -> bool:
        """Say whether the stream's leader has an event at its place; GaveUpError."""
        body = {"seq": event.sequence}
        try:
            answer = await self._call(
                f"STREAM.MSG.GET.{self._stream}", body, deadline, {api.MESSAGE_NOT_FOUND}
            )
        except RefusedError:
            return False
        stored = self._stored(event.sequence, base64.b64decode(answer["message"].get("data") or ""))
        return stored.n == event.n

    async def state(self, deadline: float) -> dict[str, Any]:
        """Return the stream's state, as STREAM.INFO has it, with its cluster beside; GaveUpError."""
        info = await self._call(f"STREAM.INFO.{self._stream}", None, deadline)
        return {**info["state"], "cluster": info.get("cluster", {})}

    async def append(self, subject: str, expected: int, deadline: float) -> Append:
        """Append an event if the aggregate's last one stands at `expected`, 0 for none; in as many attempts as the time allows."""
        payload = self._writer.next(b"%d " % expected)
        identity, n = self._writer.identity, self._writer.n
        name = f"{identity.run}.{identity.load}.{identity.epoch}.{identity.writer}.{n}"
        headers = {"Nats-Msg-Id": name, EXPECTED: str(expected)}
        try:
            ack = await self._insist(subject, payload, deadline, CONFLICTS, headers)
        except RefusedError as error:
            return Append(n, conflict=str(error), unsure=error.unsure)
        except GaveUpError as error:
            return Append(n, unsure=error.failure is TIMEOUT, failure=error.failure)
        now = time.monotonic()
        return Append(n, Appended(int(ack["seq"]), n, expected, now, self._client.server))

    # --- reading -----------------------------------------------------------------------------------------------------

    async def read(
        self, subject: str, deadline: float, *, durable: bool = False, abandon: bool = False
    ) -> list[Stored]:
        """Return all events of an aggregate, as a consumer of its own delivers them; GaveUpError if that cannot be done whole.

        A fetch that comes short says nothing about the store, so it is all read again, by another consumer. `durable`: by a durable
        one, whose reader stops in the middle and goes on as another. `abandon`: an ephemeral one is left to the server to remove.
        """
        while True:
            read = await self._read_once(subject, deadline, durable=durable, abandon=abandon)
            if read is not None:
                return read
            self._count("reads_again", 1)
            if time.monotonic() + RETRY >= deadline:
                raise GaveUpError(TIMEOUT)
            await anyio.sleep(RETRY)

    async def _read_once(
        self, subject: str, deadline: float, *, durable: bool, abandon: bool
    ) -> list[Stored] | None:
        with self._consumers.one(durable=durable) as consumer:
            body = {"stream_name": self._stream, "config": consumer.config(subject)}
            made = await self._call(f"CONSUMER.CREATE.{self._stream}.{consumer.name}", body, deadline)
            total = int(made["num_pending"])
            read: list[Stored] = []
            size = min(self._fetch, -(-total // 2) if durable else total)
            while len(read) < total:
                messages = await self._fetch_from(consumer.name, min(size, total - len(read)))
                if not self._take(messages, read) or len(messages) < min(size, total - len(read)):
                    return None
                read += [self._stored(place(msg).sequence, msg.data) for msg in messages]
                if durable:
                    await self._commit(consumer.name, messages[-1], deadline)
            if not abandon or durable:
                consumer.ended = await self._end(consumer.name)
        return read

    async def _fetch_from(self, consumer: str, count: int) -> list[Msg]:
        try:
            return await self._fetches.fetch(self._stream, consumer, count)
        except NotSentError:
            return []

    @staticmethod
    def _take(messages: list[Msg], read: list[Stored]) -> bool:
        """Say whether messages are the next that their consumer delivered: what is lost on the way to us, the store has not lost."""
        numbers = [place(msg).number for msg in messages]
        return numbers == list(range(len(read) + 1, len(read) + 1 + len(messages)))

    async def _commit(self, consumer: str, last: Msg, deadline: float) -> None:
        """Acknowledge up to a message, be sure of it, and see that the consumer is there for whoever goes on from here."""
        place_ = place(last).sequence
        while True:
            with suppress(
                UnansweredError, NobodyError, NotSentError
            ):  # the consumer knows whether it arrived
                await self.questions.ask(last.reply, b"+ACK")
            info = await self._call(f"CONSUMER.INFO.{self._stream}.{consumer}", None, deadline)
            if int(info["ack_floor"]["stream_seq"]) >= place_:
                return
            if time.monotonic() + RETRY >= deadline:
                raise GaveUpError(Failure("acknowledgement forgotten", f"{consumer} at {place_}"))
            await anyio.sleep(RETRY)

    async def _end(self, consumer: str) -> bool:
        """Delete a consumer, in one attempt; say whether it is gone."""
        try:
            await self._call(
                f"CONSUMER.DELETE.{self._stream}.{consumer}", None, 0.0, {api.CONSUMER_NOT_FOUND}
            )
        except RefusedError:
            return True
        except GaveUpError:
            return False
        return True

    def _stored(self, sequence: int, payload: bytes) -> Stored:
        n = self._writer.read(payload)
        after = self._writer.read_more(payload) if n is not None else b""
        if n is None or not after.isdigit():
            return Stored(sequence, -1, 0)
        return Stored(sequence, n, int(after))

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _call(
        self,
        subject: str,
        body: dict[str, Any] | None,
        deadline: float,
        wanted: frozenset[int] | set[int] = frozenset(),
    ) -> dict[str, Any]:
        payload = json.dumps(body).encode() if body is not None else b""
        return await self._insist(f"{self._prefix}.{subject}", payload, deadline, wanted)

    async def _insist(
        self,
        subject: str,
        payload: bytes,
        deadline: float,
        wanted: frozenset[int] | set[int],
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Ask until there is an answer or the time is up, at least once.

        RefusedError for the `wanted` errors; GaveUpError, which is indeterminate if any attempt went unanswered.
        """
        unsure = False
        while True:
            self._count("attempts", 1)
            try:
                answer = from_json((await self.questions.ask(subject, payload, headers)).data)
                error = answer.get("error")
                if not error:
                    return dict(answer)
                if (code := int(error.get("err_code", 0))) in wanted:
                    raise RefusedError(code, str(error.get("description", "")), unsure=unsure)
                failure = Failure(f"error {code}", str(error.get("description", "")))
            except UnansweredError:
                failure, unsure = TIMEOUT, True
            except NobodyError:
                failure = Failure("no responders", subject)
            except NotSentError as error:
                failure = Failure(f"not sent: {error}")
            except (ValueError, AttributeError, TypeError) as error:
                failure = Failure("no answer of JetStream", f"{subject}: {error}")
            if time.monotonic() + RETRY >= deadline:
                raise GaveUpError(TIMEOUT if unsure else failure)
            await anyio.sleep(RETRY)
