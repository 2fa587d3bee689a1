"""Decides what became of acknowledged messages: those not delivered are lost by the stream, in delivery, or to its retention.

Whether the stream keeps those that it has delivered is the business of `loads.keeping`.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pydantic_core import from_json

from supervisor.broker import api
from supervisor.broker.connection import BrokerError, Handle
from supervisor.broker.leadership import Leadership, is_authoritative
from supervisor.loads.acked import Acked, Fate, Lost
from supervisor.loads.identity import Writer
from supervisor.loads.keeping import CONFIRM, Keeping
from supervisor.loads.ledger import Ledger

AT_ONCE: Final = 200
"""Messages that are looked at in one go."""
DEADLINE: Final = 2.0
ELECTED: Final = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED"


class Audit:
    """Looks at the stream for one life of a load."""

    def __init__(
        self,
        handle: Handle,
        ledger: Ledger,
        *,
        stream: str,
        consumer: str,
        writer: Writer,
        remake: Callable[[int], Awaitable[None]],
    ) -> None:
        """`writer` reads whose a message is. `remake` makes the consumer anew if it is gone, to begin at a place in the stream."""
        self.leadership = Leadership()
        self.keeping = Keeping(ledger.kept, self._ours)
        self._handle, self._ledger, self._writer = handle, ledger, writer
        self._stream, self._consumer, self._remake = stream, consumer, remake
        self._suspects: dict[int, float] = {}
        """Messages that seemed lost, and since when."""

    async def follow(self) -> Callable[[], Awaitable[None]]:
        """Hear of new leaders of the stream; the return value ends that."""

        async def elected(msg: Any) -> None:
            try:
                leader = str(from_json(msg.data)["leader"])
            except (ValueError, KeyError, TypeError):
                return
            self.leadership.seen(leader, time.monotonic())

        return (await self._handle.subscribe(f"{ELECTED}.{self._stream}", elected)).unsubscribe

    async def look(self, settle: float, prefix: str) -> list[Lost]:
        """Return what is lost, and is no longer in any book from now on; BrokerError if the broker does not say.

        It is what has been owed for `settle` seconds, and what was delivered and has been gone for as long. `prefix` begins every id.
        """
        asked = time.monotonic()
        state = await self._state()
        if self.keeping.learn(state):
            state = await self._state(deleted=True)
            self.keeping.learn(state)
        gone = await self.keeping.look(state, asked, settle)
        lost = await self._owed(state, settle, prefix)
        # All at once: who is cut off before this has decided nothing. Some may have arrived meanwhile.
        self._ledger.kept.replace(gone.changed)
        return [*gone.lost, *(one for one in lost if self._ledger.owed.pop(one.acked.n, None))]

    async def compare(self) -> list[Lost]:
        """Look at some of what was delivered place by place, and return what is lost of it; BrokerError if the broker does not say."""
        return await self.keeping.compare(self._state)

    async def _owed(self, state: dict[str, Any], settle: float, prefix: str) -> list[Lost]:
        due: list[Acked] = []
        for acked in self._ledger.owed.values():
            if acked.at > time.monotonic() - settle or len(due) == AT_ONCE:
                break
            due.append(acked)
        if not due:
            self._suspects.clear()
            return []
        floor = await self._floor(due) if state else 0
        lost: list[Lost] = []
        suspects: dict[int, float] = {}
        for acked in due:
            fate = await self._fate(acked, f"{prefix}{acked.n}", state, floor)
            since = self._suspects.get(acked.n, now := time.monotonic())
            if fate and now - since < CONFIRM:
                suspects[acked.n] = since
            elif fate:
                lost.append(Lost(acked, fate, state))
        self._suspects = suspects
        return lost

    async def _state(self, *, deleted: bool = False) -> dict[str, Any]:
        """Return what the stream's leader says of it, empty if there is no such stream; BrokerError if nobody may speak for it."""
        try:
            info = await self._call(
                f"STREAM.INFO.{self._stream}", {"deleted_details": True} if deleted else None
            )
        except api.ApiError as error:
            if error.err_code == api.STREAM_NOT_FOUND:
                return {}
            raise
        cluster = info.get("cluster") or {}
        leader = str(cluster.get("leader") or "")
        if cluster.get("name") and not is_authoritative(leader, cluster.get("replicas") or ()):
            raise BrokerError(f"stream {self._stream}: {leader or 'nobody'} leads it without a majority")
        self.leadership.seen(leader or self._handle.nc.server_title.partition(" ")[0], time.monotonic())
        return {**info["state"], "cluster": cluster, "created": info["created"], "config": info["config"]}

    async def _floor(self, due: list[Acked]) -> int:
        """Return up to where the consumer's messages were acknowledged; a consumer that is gone begins anew with what is owed."""
        try:
            consumer = await self._call(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
        except api.ApiError as error:
            if error.err_code != api.CONSUMER_NOT_FOUND:
                raise
            # What is not due yet may have been stored before what is: acknowledgements come in any order.
            await self._remake(min(acked.sequence for acked in (*due, *self._ledger.owed.values())))
            return 0
        return int(consumer["ack_floor"]["stream_seq"])

    async def _fate(self, acked: Acked, name: str, state: dict[str, Any], floor: int) -> Fate | None:
        """Return what became of a message; None: it is there, and may still be delivered."""
        if not state:
            return "stream"
        if acked.sequence < state["first_seq"] and self.keeping.may_drop(acked):
            return "retention"
        if await self.holds(acked.sequence) != name:
            return "stream"
        # The floor passes a message only when it was acknowledged by its reader, and that is us.
        return "delivery" if floor >= acked.sequence else None

    async def holds(self, sequence: int) -> str:
        """Return the id of the message at a place of the stream, as its leader has it; empty if there is none. BrokerError."""
        message = await self._message(sequence)
        if message is None:
            return ""
        headers = base64.b64decode(message.get("hdrs", "")).decode(errors="replace")
        lines = (line.partition(": ") for line in headers.split("\r\n"))
        return next((value for key, _, value in lines if key == "Nats-Msg-Id"), "a message without id")

    async def _ours(self, sequence: int) -> int | None:
        """Return which of our messages is at a place, by what it says itself: a system in between may not pass on its id.

        0 for another one, None for none.
        """
        message = await self._message(sequence)
        return self._writer.read(base64.b64decode(message.get("data", ""))) or 0 if message else None

    async def _message(self, sequence: int) -> dict[str, Any] | None:
        try:
            answer = await self._call(f"STREAM.MSG.GET.{self._stream}", {"seq": sequence})
        except api.ApiError as error:
            if error.err_code in {api.MESSAGE_NOT_FOUND, api.STREAM_NOT_FOUND}:
                return None
            raise
        return dict(answer["message"])

    async def _call(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return await api.call(self._handle, subject, body, deadline=DEADLINE)
