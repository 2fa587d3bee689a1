"""Requests and their answers, on one subscription: faster than a waiter for each, and nothing that arrives goes unseen."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import anyio
from nats.aio.msg import Msg

from supervisor.loads.clients import LoadClient

NOBODY: Final = "503"
"""Status header of a server's own answer: nobody listens on the subject."""
EXPIRED: Final = 10_000
"""Timed-out requests remembered, so that their answers are told from duplicates."""
SWEEPS: Final = 50
"""Looks for timed-out requests in one timeout: a timeout is at most 2 % late."""


class NobodyError(Exception):
    """Nobody listens on the subject."""


class UnansweredError(Exception):
    """No answer in time: what was asked for may have happened."""


class Questions:
    """Asks with a deadline. `run` is the task behind it; counts what comes without being awaited under counters of the load."""

    def __init__(self, client: LoadClient, timeout: float, count: Callable[[str, float], None]) -> None:
        """`count` takes `duplicates` (a second answer), `late_answers` (after the timeout), `unexpected` (to nothing asked)."""
        self._client, self._timeout, self._count = client, timeout, count
        self._inbox = ""
        self._asked = 0
        self._open: OrderedDict[int, tuple[float, asyncio.Future[Msg]]] = OrderedDict()
        self._expired: OrderedDict[int, None] = OrderedDict()

    async def open(self) -> None:
        """Subscribe to the answers."""
        self._inbox = self._client.nc.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", self._answered)

    async def ask(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> Msg:
        """Return the answer; NobodyError, UnansweredError, or NotSentError of the client."""
        self._asked = n = self._asked + 1
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._open[n] = time.monotonic() + self._timeout, answer
        try:
            await self._client.publish(subject, payload, f"{self._inbox}.{n}", headers)
            return await answer
        finally:
            self._open.pop(n, None)

    async def run(self) -> None:
        """End what is not answered in time, for ever."""
        while True:
            await anyio.sleep(self._timeout / SWEEPS)
            now = time.monotonic()
            while self._open:
                n, (deadline, answer) = next(iter(self._open.items()))
                if deadline > now:
                    break
                del self._open[n]
                self._expired[n] = None
                if not answer.done():
                    answer.set_exception(UnansweredError)
            while len(self._expired) > EXPIRED:
                self._expired.popitem(last=False)

    def _answered(self, msg: Msg) -> None:
        text = msg.subject.rpartition(".")[2]
        n = int(text) if text.isdecimal() else -1
        if entry := self._open.pop(n, None):
            answer = entry[1]
            if not answer.done():
                if msg.headers and not msg.data and msg.headers.get("Status") == NOBODY:
                    answer.set_exception(NobodyError)
                else:
                    answer.set_result(msg)
            return
        if not 0 < n <= self._asked:
            self._count("unexpected", 1)
        elif n in self._expired:
            del self._expired[n]
            self._count("late_answers", 1)
        elif self._client.settled:
            self._count("duplicates", 1)
