"""Decides what became of acknowledged messages that were not delivered: lost by the stream, in delivery, or to its retention."""

from __future__ import annotations

import base64
import time
from dataclasses import asdict
from typing import Any, Final, Literal

from supervisor.broker import api
from supervisor.broker.connection import Handle
from supervisor.journal.events import InvariantViolated
from supervisor.loads.base import LoadContext
from supervisor.loads.ledger import Acked, Ledger

AT_ONCE: Final = 200
"""Messages that are looked at in one go."""
TOLD: Final = 20
"""Losses that are told with all their details; the others are only counted."""
DEADLINE: Final = 2.0

Fate = Literal["stream", "delivery", "retention"]


class Audit:
    """Looks at the stream for one life of a load."""

    def __init__(
        self,
        context: LoadContext,
        handle: Handle,
        ledger: Ledger,
        *,
        stream: str,
        consumer: str,
        keeps: float,
    ) -> None:
        """`keeps`: seconds for which the stream keeps every message; 0 if it is not ours and may drop what it likes."""
        self.lost = 0
        self._context, self._handle, self._ledger = context, handle, ledger
        self._stream, self._consumer, self._keeps = stream, consumer, keeps

    async def look(self, settle: float, prefix: str) -> None:
        """Decide on what has been owed for `settle` seconds; BrokerError if the broker does not say. `prefix` begins every id."""
        due: list[Acked] = []
        for acked in self._ledger.owed.values():
            if acked.at > time.monotonic() - settle or len(due) == AT_ONCE:
                break
            due.append(acked)
        if not due:
            return
        consumer = await self._call(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
        stream = await self._call(f"STREAM.INFO.{self._stream}")
        for acked in due:
            fate = await self._fate(acked, f"{prefix}{acked.n}", stream["state"], consumer)
            if fate and self._ledger.owed.pop(acked.n, None):
                await self._tell(acked, fate, f"{prefix}{acked.n}", stream)

    async def _fate(
        self, acked: Acked, name: str, state: dict[str, Any], consumer: dict[str, Any]
    ) -> Fate | None:
        """Return what became of a message; None: it is there, and may still be delivered."""
        if acked.sequence < state["first_seq"] and time.monotonic() - acked.at >= self._keeps:
            return "retention"
        if await self._holds(acked.sequence) != name:
            return "stream"
        # The floor passes a message only when it was acknowledged by its reader, and that is us.
        return "delivery" if consumer["ack_floor"]["stream_seq"] >= acked.sequence else None

    async def _holds(self, sequence: int) -> str:
        """Return the id of the message at a place of the stream; empty if there is none."""
        try:
            answer = await self._call(f"STREAM.MSG.GET.{self._stream}", {"seq": sequence})
        except api.ApiError as error:
            if error.err_code == api.MESSAGE_NOT_FOUND:
                return ""
            raise
        headers = base64.b64decode(answer["message"].get("hdrs", "")).decode(errors="replace")
        lines = (line.partition(": ") for line in headers.split("\r\n"))
        return next((value for key, _, value in lines if key == "Nats-Msg-Id"), "?")

    async def _tell(self, acked: Acked, fate: Fate, name: str, stream: dict[str, Any]) -> None:
        count = self._context.recorder.count
        count(f"lost_to_{fate}" if fate == "retention" else f"lost_in_{fate}")
        if fate == "retention":
            return
        state = stream["state"]
        where = "prefix" if acked.sequence < state["first_seq"] else "middle"
        where = "postfix" if acked.sequence > state["last_seq"] else where
        count("lost")
        count(f"lost_{where}")
        self.lost += 1
        if self.lost > TOLD:
            return
        near = {
            str(n): await self._holds(n) for n in (acked.sequence - 1, acked.sequence, acked.sequence + 1)
        }
        self._context.journal.emit(
            InvariantViolated(
                invariant="an acknowledged message is delivered",
                subject=f"load {self._context.name}: stream {self._stream}",
                detail=f"{name} was acknowledged as message {acked.sequence} and is lost: "
                + ("the stream does not have it" if fate == "stream" else "it was never delivered"),
                data={
                    **asdict(acked),
                    "id": name,
                    "fate": fate,
                    "where": where,
                    "holds": near,
                    "state": state,
                    "cluster": stream.get("cluster", {}),
                },
            )
        )

    async def _call(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return await api.call(self._handle, subject, body, deadline=DEADLINE)
