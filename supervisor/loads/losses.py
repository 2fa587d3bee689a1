"""Tells of messages that were lost: counts them, and puts all that can be found out about the first of them on record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import anyio

from supervisor.broker.connection import BrokerError
from supervisor.broker.replicas import Replica, replicas
from supervisor.journal.events import InvariantViolated
from supervisor.loads.acked import Lost
from supervisor.loads.audit import Audit
from supervisor.loads.base import LoadContext
from supervisor.loads.ledger import Ledger

if TYPE_CHECKING:
    from supervisor.loads.jetstream import JetStreamLoad

TOLD: Final = 20
"""Losses that are told with all their details; the others are only counted."""
LOGS: Final = 5
"""How often the servers' logs are saved."""
BEFORE: Final = 30.0
"""Seconds before the message's first publish from which on the logs are saved; they end when the loss is noticed."""
EVIDENCE: Final = 3.0
"""Seconds to find things out in; then what is known is told."""
_INVARIANT: Final = "an acknowledged message is delivered"
_KEPT: Final = "an acknowledged message stays in its stream"
_HOW: Final = {"stream": "the stream does not have it", "delivery": "it was never delivered"}
_GONE: Final = "the stream has delivered it, and does not have it any more"


class Losses:
    """The losses of one life of a load."""

    def __init__(
        self,
        load: JetStreamLoad,
        context: LoadContext,
        audit: Audit,
        ledger: Ledger,
        *,
        prefix: str,
        subject: str,
    ) -> None:
        """`prefix` begins the id of every message, `subject` is what they are published to."""
        self.count = 0
        self._load, self._context, self._audit, self._ledger = load, context, audit, ledger
        self._prefix, self._subject = prefix, subject
        self._saved: list[tuple[float, float, Mapping[str, str]]] = []
        """From when to when logs were saved, in wall time, and where they are."""

    async def tell(self, lost: list[Lost]) -> None:
        """Count what is lost, and tell the first of it with all details; those within `EVIDENCE` seconds, cancelled or not."""
        count = self._context.recorder.count
        told: list[Lost] = []
        for one in lost:
            if one.fate == "retention":
                count("lost_to_retention")
                continue
            for name in ("lost", f"lost_in_{one.fate}", f"lost_{one.where}"):
                count(name, one.amount)
            if self.count < TOLD:
                told.append(one)
            self.count += one.amount
        if not told:
            return
        found: dict[str, Any] = {"replicas": {}, "neighbours": {}, "logs": {}}
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + EVIDENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(self._ask_replicas, told, found)
                group.start_soon(self._ask_neighbours, told, found)
                group.start_soon(self._save_logs, told, found)
        for one in told:
            self._context.journal.emit(self._event(one, found))

    def _event(self, one: Lost, found: dict[str, Any]) -> InvariantViolated:
        acked, name = one.acked, self._id(one)
        leader = self._audit.leadership.at(acked.at)
        server = leader.server or "a server that nobody saw leading"
        held = self._with_silent(found["replicas"].get(acked.sequence, {}), one)
        where = "; ".join(f"{node}: {replica.holds}, {replica.why}" for node, replica in held.items())
        detail = (
            f"{name} on {self._subject} was acknowledged at {_clock(acked.at)} by {server} as message "
            f"{acked.sequence} of {acked.stream or 'a stream without name'}, and is lost: "
            f"{_GONE if one.delivered else _HOW[one.fate]}"
        )
        return InvariantViolated(
            invariant=_KEPT if one.delivered else _INVARIANT,
            subject=f"load {self._context.name}: stream {self._load.jetstream}",
            detail=f"{detail}. Replicas: {where or 'unknown'}",
            data={
                "id": name,
                "subject": self._subject,
                "published": _clock(acked.began),
                "acked": _clock(acked.at),
                "stream": acked.stream,
                "sequence": acked.sequence,
                "duplicate": acked.duplicate,
                "acked_by": leader.server or "unknown",
                "acked_by_known_from": f"only the leader acknowledges: {leader.why}",
                "connected_to": acked.server or "unknown",
                "fate": one.fate,
                "delivered": one.delivered,
                "where": one.where,
                "neighbours": found["neighbours"].get(acked.n, {}),
                "replicas": {node: replica._asdict() for node, replica in held.items()},
                "logs": found["logs"],
                "state": one.state,
            },
        )

    def _id(self, one: Lost) -> str:
        return f"{self._prefix}{one.acked.n}"

    def _with_silent(self, held: dict[str, Replica], one: Lost) -> dict[str, Replica]:
        """Add the servers that should hold a replica and were not heard."""
        cluster = one.state.get("cluster") or {}
        names = [cluster.get("leader"), *(peer.get("name") for peer in cluster.get("replicas") or ())]
        silent = {name: Replica("unknown", "it did not answer") for name in names if name}
        return dict(sorted({**silent, **held}.items()))

    async def _ask_replicas(self, told: list[Lost], found: dict[str, Any]) -> None:
        created = str(told[-1].state.get("created", ""))
        connections = self._context.connections
        if connections is None or not created:
            return
        messages = {one.acked.sequence: self._id(one) for one in told}
        found["replicas"] = await replicas(
            connections, self._load.connection, self._load.jetstream, created, messages
        )

    async def _ask_neighbours(self, told: list[Lost], found: dict[str, Any]) -> None:
        """Note what became of the messages written before and after, and what the stream has around the place."""
        for one in told:
            n, place = one.acked.n, one.acked.sequence
            near = {f"{self._prefix}{m}": self._ledger.fate(m) for m in (n - 1, n + 1) if m > 0}
            found["neighbours"][n] = near
            for sequence in (place - 1, place, place + 1):
                try:
                    near[f"message {sequence}"] = await self._audit.holds(sequence) or "none"
                except BrokerError:
                    near[f"message {sequence}"] = "unknown"

    async def _save_logs(self, told: list[Lost], found: dict[str, Any]) -> None:
        """Save the logs from before the first of these messages until now; once for all that are lost at the same time."""
        since = min(_wall(one.acked.began) for one in told) - BEFORE
        for begin, end, files in self._saved:
            if begin <= since and max(_wall(one.acked.at) for one in told) <= end:
                found["logs"] = files
                return
        logs, until = self._context.server_logs, time.time()
        if logs is None:
            found["logs"] = {
                "?": "none of the broker's servers is a unit of this soak: see `nodes` of broker"
            }
        elif len(self._saved) == LOGS:
            found["logs"] = {"?": f"saved {LOGS} times already"}
        else:
            title = f"{self._context.name}.lost.{datetime.fromtimestamp(until, UTC):%Y-%m-%dT%H-%M-%S}"
            if self._context.processes > 1:
                title += f".{self._context.process + 1}"  # others may save theirs in the same second
            found["logs"] = files = await logs.save(title, since, until)
            self._saved.append((since, until, files))


def _wall(moment: float) -> float:
    """Return the wall time of a moment in monotonic seconds."""
    return time.time() - (time.monotonic() - moment)


def _clock(moment: float) -> str:
    text = datetime.fromtimestamp(_wall(moment), UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
