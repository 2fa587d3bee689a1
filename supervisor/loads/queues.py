"""The queues that workers claim jobs from: a work queue stream, and a bucket whose keys are claims; `endpoint` has another."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import anyio
from nats.aio.msg import Msg

from supervisor.answers import beginning
from supervisor.broker import api
from supervisor.broker.connection import BrokerError, Handle
from supervisor.loads.clients import LoadClient, NotSentError
from supervisor.loads.executor import TIMEOUT, Failure
from supervisor.loads.identity import Writer
from supervisor.loads.publishing import CONFLICT, compare_and_set, publish
from supervisor.loads.questions import NobodyError, Questions, UnansweredError

EMPTY: Final = Failure("", outcome="ok")
"""There is nothing to claim: a right answer, after which a worker pauses a moment."""
_EMPTY_STATUS: Final = ("404", "408")
_CHOICE: Final = 8
"""Jobs of a bucket among which a worker looks for one that is not taken, beside the oldest."""
_NO_WAIT: Final = b'{"batch": 1, "no_wait": true}'


class Claimed(NamedTuple):
    """A job that a worker was given."""

    job: str
    asked: float
    """Monotonic seconds of the request."""
    token: Any
    """What the queue needs to finish it."""


class Queue(Protocol):
    """Where jobs come from. Every call keeps to its own deadline, and none raises but for bugs."""

    supplies: bool
    """Whether the load submits the jobs."""

    async def supply(self) -> str | None:
        """Submit a job and return its name; None if that went wrong."""

    async def claim(self, worker: int, offered: Sequence[str]) -> Claimed | Failure:
        """Ask for a job; `EMPTY` if there is none. `offered` are the ones known to wait, oldest first."""

    async def finish(self, job: str, worker: int, token: Any) -> bool | None:
        """Finish a job; True if the queue confirmed it, False if it refused it for good, None: try again."""


# --- a work queue stream -----------------------------------------------------------------------------------------------


class _Inbox:
    """Where one pull's message arrives."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.answer: asyncio.Future[Msg] | None = None
        """What is awaited; None: nothing is."""


class StreamQueue:
    """A stream with work queue retention and one consumer: a message is a job, its acknowledgement the end of it."""

    supplies = True

    def __init__(
        self,
        client: LoadClient,
        questions: Questions,
        writer: Writer,
        *,
        subject: str,
        pull: str,
        timeout: float,
        lease: float,
        name: Callable[[int], str],
    ) -> None:
        """`pull` is the API's subject for the next message of the consumer, whose ack wait is `lease`; `name` that of our n-th job."""
        self._client, self._questions, self._writer = client, questions, writer
        self._subject, self._pull, self._timeout, self._lease = subject, pull, timeout, lease
        self._name = name
        self._free: list[_Inbox] = []
        self._resting: deque[tuple[float, _Inbox]] = deque()

    async def supply(self) -> str | None:
        """Publish a job."""
        name = self._name(self._writer.n + 1)
        payload = self._writer.next(f"{name} ".encode())
        headers = {"Nats-Msg-Id": f"{self._writer.identity.run}.{self._writer.identity.epoch}.{name}"}
        return (
            None
            if isinstance(await publish(self._questions, self._subject, payload, headers), Failure)
            else name
        )

    async def claim(self, worker: int, offered: Sequence[str]) -> Claimed | Failure:  # noqa: ARG002  # the stream chooses
        """Pull one message."""
        inbox, asked = await self._inbox(), time.monotonic()
        inbox.answer = asyncio.get_running_loop().create_future()
        msg: Msg | None = None
        try:
            await self._client.publish(self._pull, _NO_WAIT, inbox.subject)
            with anyio.move_on_after(self._timeout):
                msg = await inbox.answer
        except NotSentError as error:
            self._free.append(inbox)
            return Failure(f"not sent: {error}")
        finally:
            inbox.answer = None
        if msg is None:
            # What comes late must not be taken for the answer to a later pull: it was delivered before that was asked.
            self._resting.append((time.monotonic() + self._lease, inbox))
            return TIMEOUT
        self._free.append(inbox)
        return self._claimed(msg, asked)

    def _claimed(self, msg: Msg, asked: float) -> Claimed | Failure:
        if not msg.reply:  # a status, not a message to acknowledge
            status = (msg.headers or {}).get("Status", "")
            if status in _EMPTY_STATUS:
                return EMPTY
            what = "no responders" if status == "503" else f"status {status}"
            return Failure(what, (msg.headers or {}).get("Description", ""))
        return Claimed(
            self._writer.word(msg.data) or beginning(msg.data[:60].decode(errors="replace")), asked, msg.reply
        )

    async def _inbox(self) -> _Inbox:
        if self._resting and self._resting[0][0] <= time.monotonic():
            return self._resting.popleft()[1]
        if self._free:
            return self._free.pop()
        inbox = _Inbox(self._client.nc.new_inbox())

        async def came(msg: Msg) -> None:
            if inbox.answer is not None and not inbox.answer.done():
                inbox.answer.set_result(msg)
            elif msg.reply:
                await _give_back(self._client, msg)

        await self._client.subscribe(inbox.subject, came)
        return inbox

    async def finish(self, job: str, worker: int, token: Any) -> bool | None:  # noqa: ARG002  # the message says all
        """Acknowledge, and wait until that is acknowledged."""
        try:
            await self._questions.ask(token, b"+ACK")
        except (UnansweredError, NobodyError, NotSentError):
            return None
        return True


async def _give_back(client: LoadClient, msg: Msg) -> None:
    try:
        await client.publish(msg.reply, b"-NAK")
    except NotSentError:
        return  # it is given out again when its time is over


async def make_consumer(handle: Handle, stream: str, name: str, lease: float) -> None:
    """Make the consumer that all workers share, which gives a job out again after `lease` seconds."""
    config = {
        "durable_name": name,
        "ack_policy": "explicit",
        "ack_wait": int(lease * 1e9),
        "max_ack_pending": 20_000,
        "max_waiting": 20_000,
    }
    try:
        await api.call(
            handle, f"CONSUMER.DURABLE.CREATE.{stream}.{name}", {"stream_name": stream, "config": config}
        )
    except api.ApiError as error:
        raise BrokerError(f"cannot make a consumer on {stream}: {error}") from error


# --- a bucket ------------------------------------------------------------------------------------------------------------


class BucketQueue:
    """A bucket in which who creates a job's key has it. One whose holder's time is over is taken over by its revision."""

    supplies = True

    def __init__(
        self,
        questions: Questions,
        count: Callable[[str, float], None],
        *,
        prefix: str,
        name: Callable[[int], str],
        expired: Callable[[], tuple[str, int] | None],
        doubt: Callable[[str], None],
    ) -> None:
        """`prefix` begins the subject of every job's key; `name` is that of our n-th job.

        `expired` names a job that is held for too long, with the revision of its key; `doubt` is told a job that somebody may have claimed and never hears of it.
        """
        self._questions, self._count, self._prefix = questions, count, prefix
        self._expired, self._doubt = expired, doubt
        self._name, self._n = name, 0
        self._chance = random.Random(prefix + name(0))  # noqa: S311  # which job to try next

    async def supply(self) -> str | None:
        """Name a new job."""
        self._n += 1
        return self._name(self._n)  # a job of a bucket is a number that nobody has made a key of yet

    async def claim(self, worker: int, offered: Sequence[str]) -> Claimed | Failure:
        """Create a job's key, or take over that of a job whose holder's time is over."""
        # The oldest, as everybody does; who came too late looks further on.
        asked, first = time.monotonic(), offered[0] if offered else None
        job, expected = self._expired() or (first, 0)
        for _ in range(len(offered) + 1):
            if job is None:
                return EMPTY
            answer = await compare_and_set(
                self._questions, f"{self._prefix}{job}", f"worker {worker}".encode(), expected
            )
            if isinstance(answer, int):
                return Claimed(job, asked, answer)
            if answer is not CONFLICT:
                if answer.outcome == "indeterminate":
                    self._doubt(job)
                return answer
            self._count("contended", 1)
            expected = 0
            job = self._chance.choice(offered[1:_CHOICE]) if len(offered) > 1 else None
        return EMPTY

    async def finish(self, job: str, worker: int, token: Any) -> bool | None:
        """Say in the key that it is done; False: it is another's by now."""
        answer = await compare_and_set(
            self._questions, f"{self._prefix}{job}", f"done by {worker}".encode(), token
        )
        if isinstance(answer, int) or answer is CONFLICT:
            return isinstance(answer, int)
        return None
