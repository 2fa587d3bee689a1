"""Decides what became of acknowledged messages that were not delivered: lost by the stream, in delivery, or to its retention."""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple

from pydantic_core import from_json

from supervisor.broker import api
from supervisor.broker.connection import BrokerError, Handle
from supervisor.broker.leadership import Leadership, is_authoritative
from supervisor.loads.ledger import Acked, Ledger

AT_ONCE: Final = 200
"""Messages that are looked at in one go."""
DEADLINE: Final = 2.0
CONFIRM: Final = 1.0
"""Seconds after which a loss that was seen is seen once more before it is one: a leader of the past lacks what came after it."""
ELECTED: Final = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED"

Fate = Literal["stream", "delivery", "retention"]


class Lost(NamedTuple):
    """A message that was acknowledged and is gone."""

    acked: Acked
    fate: Fate
    state: dict[str, Any]
    """The stream's, as STREAM.INFO has it, with `cluster` and `created`; empty if there is no such stream any more."""

    @property
    def where(self) -> str:
        """Before all that the stream has (prefix), after it (postfix), or in between (middle)."""
        if not self.state or self.acked.sequence > self.state["last_seq"]:
            return "postfix"
        return "prefix" if self.acked.sequence < self.state["first_seq"] else "middle"


class Audit:
    """Looks at the stream for one life of a load."""

    def __init__(
        self,
        handle: Handle,
        ledger: Ledger,
        *,
        stream: str,
        consumer: str,
        keeps: float,
        remake: Callable[[int], Awaitable[None]],
    ) -> None:
        """`keeps`: seconds for which the stream keeps every message; 0 if it is not ours and may drop what it likes.

        `remake` makes the consumer anew if it is gone, to begin at a place in the stream.
        """
        self.leadership = Leadership()
        self._handle, self._ledger = handle, ledger
        self._stream, self._consumer, self._keeps, self._remake = stream, consumer, keeps, remake
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
        """Return what is lost of all that has been owed for `settle` seconds, and is no longer from now on. `prefix` begins every id.

        BrokerError if the broker does not say.
        """
        state = await self._state()
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
        # All at once: who is cut off before this has decided nothing. Some may have arrived meanwhile.
        return [one for one in lost if self._ledger.owed.pop(one.acked.n, None)]

    async def _state(self) -> dict[str, Any]:
        """Return what the stream's leader says of it, empty if there is no such stream; BrokerError if nobody may speak for it."""
        try:
            info = await self._call(f"STREAM.INFO.{self._stream}")
        except api.ApiError as error:
            if error.err_code == api.STREAM_NOT_FOUND:
                return {}
            raise
        cluster = info.get("cluster") or {}
        leader = str(cluster.get("leader") or "")
        if cluster.get("name") and not is_authoritative(leader, cluster.get("replicas") or ()):
            raise BrokerError(f"stream {self._stream}: {leader or 'nobody'} leads it without a majority")
        self.leadership.seen(leader or self._handle.nc.server_title.partition(" ")[0], time.monotonic())
        return {**info["state"], "cluster": cluster, "created": info["created"]}

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
        if acked.sequence < state["first_seq"] and time.monotonic() - acked.at >= self._keeps:
            return "retention"
        if await self.holds(acked.sequence) != name:
            return "stream"
        # The floor passes a message only when it was acknowledged by its reader, and that is us.
        return "delivery" if floor >= acked.sequence else None

    async def holds(self, sequence: int) -> str:
        """Return the id of the message at a place of the stream, as its leader has it; empty if there is none. BrokerError."""
        try:
            answer = await self._call(f"STREAM.MSG.GET.{self._stream}", {"seq": sequence})
        except api.ApiError as error:
            if error.err_code in {api.MESSAGE_NOT_FOUND, api.STREAM_NOT_FOUND}:
                return ""
            raise
        headers = base64.b64decode(answer["message"].get("hdrs", "")).decode(errors="replace")
        lines = (line.partition(": ") for line in headers.split("\r\n"))
        return next((value for key, _, value in lines if key == "Nats-Msg-Id"), "a message without id")

    async def _call(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return await api.call(self._handle, subject, body, deadline=DEADLINE)
