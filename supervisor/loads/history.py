"""The operations on an event store, and what they show: how its aggregates came about, and whether it still says so."""

from __future__ import annotations

import random
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio

from supervisor.journal.events import InvariantViolated
from supervisor.loads.aggregates import Aggregate, Appended, Findings, Stored
from supervisor.loads.base import LoadContext
from supervisor.loads.executor import Failure
from supervisor.loads.identity import Writer
from supervisor.loads.store import Append, GaveUpError, Store

if TYPE_CHECKING:
    from supervisor.loads.event_store import EventStoreLoad

EMPTY: Final = 0.1
"""Share of the readings that are of an aggregate without events."""
TOLD: Final = 20
"""Violations that are told with all their details; the others are only counted."""
LAST_LOOK: Final = 3.0
"""Seconds at the end to read what was not read back yet, and what was once more."""
RETIRED: Final = 100
"""Full aggregates that are read once more at the end: a sample of all there were."""
AT_ONCE: Final = 32
CONFLICTS: Final = ("self_conflicts", "spurious_conflicts")
"""What only an append shows: 0 is said of them at the first one."""
SETTLED: Final = ("lost", "gaps", "forks", "duplicates", "reordered", "unexpected")
"""What only whole readings show: 0 is said of them at the end, if something was appended and all of it could be read."""
_INVARIANTS: Final = {
    "duplicates": "an event is stored once",
    "forks": "an event is appended only behind the one that its writer knew as the last",
    "gaps": "an event stays as long as those that follow it",
    "reordered": "events are delivered in the order in which they are stored",
    "unexpected": "nobody but us writes to our aggregates",
}

Fate = Literal["stream", "delivery", "retention", "stale"]


class History:
    """The aggregates of one life of the load."""

    def __init__(
        self, load: EventStoreLoad, context: LoadContext, store: Store, writer: Writer, *, keeps: float
    ) -> None:
        """`keeps`: seconds for which the stream keeps every event; 0 if it is not ours and may drop what it likes."""
        self._load, self._context, self._keeps = load, context, keeps
        self._store, self._writer = store, writer
        life = f"{context.name.replace('.', '_')}.{writer.identity.epoch}-{writer.identity.writer}"
        self.prefix = f"{load.prefix}.{life}"
        """What the subjects of this life's aggregates begin with."""
        self._count = context.recorder.count
        self._chance = random.Random(f"{context.seed}/{context.name}/aggregates/{context.process}")  # noqa: S311  # repeatable draws
        self._made = self._violations = 0
        self._sound = True
        self._aggregates = [self._new() for _ in range(load.part(load.aggregates, context))]
        self._retired: list[Aggregate] = []
        self._full = 0
        """How many aggregates were retired."""
        self._lots = random.Random(f"{context.seed}/{context.name}/retired/{context.process}")  # noqa: S311  # as above
        self._appended = False
        if (
            context.processes > 1
        ):  # all of them have to say so, for it to be believed, though one may never append
            self._has_appended()

    def _has_appended(self) -> None:
        if not self._appended:
            self._appended = True
            for name in CONFLICTS:
                self._count(name, 0)

    def _new(self) -> Aggregate:
        self._made += 1
        return Aggregate(f"{self.prefix}.{self._made}")

    async def operate(self) -> Failure | None:
        """Do one operation, which one is drawn."""
        deadline = time.monotonic() + self._load.timeout
        chance, load = self._chance, self._load
        place = chance.randrange(len(self._aggregates))
        aggregate = self._aggregates[place]
        try:
            if chance.random() < load.reads:
                if chance.random() < EMPTY:
                    aggregate = self._new()
                await self._read(aggregate, deadline)
                return None
            if len(aggregate.events) + load.batch > load.length:
                await self._read(aggregate, deadline)
                if not aggregate.dirty and not aggregate.appending and self._aggregates[place] is aggregate:
                    self._aggregates[place] = self._new()
                    self._retire(aggregate)
                return None
            aggregate.appending += 1
            try:
                return await self._append(aggregate, deadline, rivals=chance.random() < load.contention)
            finally:
                aggregate.appending -= 1
        except GaveUpError as error:
            return error.failure

    def _retire(self, aggregate: Aggregate) -> None:
        """Nobody appends to it any more; each of all that are full is as likely to be read at the end (Vitter's algorithm R)."""
        self._full += 1
        if len(self._retired) < RETIRED:
            self._retired.append(aggregate)
        elif (place := self._lots.randrange(self._full)) < RETIRED:
            self._retired[place] = aggregate

    # --- appending ---------------------------------------------------------------------------------------------------

    async def _append(self, aggregate: Aggregate, deadline: float, *, rivals: bool) -> Failure | None:
        began, known = time.monotonic(), aggregate.last
        last = await self._store.last(aggregate.subject, deadline)
        if (last.sequence if last else 0) < known:  # lost, or from a leader of the past: a reading decides
            await self._read(aggregate, deadline)
            return None
        failures: list[Failure] = []

        async def write() -> None:
            if failure := await self._write(aggregate, last, began, deadline):
                failures.append(failure)

        async with anyio.create_task_group() as group:
            for _ in range(1 + rivals):
                group.start_soon(write)
        return failures[0] if failures else None

    async def _write(
        self, aggregate: Aggregate, last: Stored | None, began: float, deadline: float
    ) -> Failure | None:
        """Append a batch behind `last`, each event on condition that it follows the one before."""
        expected = last.sequence if last else 0
        for _ in range(self._load.batch):
            aggregate.begin()
            said = await self._store.append(aggregate.subject, expected, deadline)
            explained = said.unsure or aggregate.explains(expected, began)
            aggregate.end(said.appended, time.monotonic(), unsure=said.unsure and not said.appended)
            if said.failure is not None:
                return said.failure
            if said.appended is None:
                self._count("conflicts", 1)
                return None if explained else await self._refused(aggregate, said, expected, deadline)
            self._has_appended()
            expected = said.appended.sequence
        return None

    async def _refused(
        self, aggregate: Aggregate, said: Append, expected: int, deadline: float
    ) -> Failure | None:
        """Look for the reason of a refusal that we gave none for: it may be that very event, stored all the same."""
        read = await self._read(aggregate, deadline, plain=True)
        ours = next((event for event in read if event.n == said.n), None)
        if ours is not None:
            self._count("self_conflicts", 1)
            aggregate.add(Appended(ours.sequence, ours.n, expected, time.monotonic(), ""))
            return None
        if (read[-1].sequence if read else 0) != expected:
            return None  # it is not the last one, for whatever reason: what is wrong with that was told by reading
        self._count("spurious_conflicts", 1)
        return Failure(
            "spurious conflict", f"{aggregate.subject}: {said.conflict}, though nobody else appended"
        )

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _read(self, aggregate: Aggregate, deadline: float, *, plain: bool = False) -> list[Stored]:
        """Read an aggregate back and compare; GaveUpError if that cannot be done whole. `plain`: no draws."""
        durable = not plain and self._chance.random() < self._load.durable
        abandon = not plain and self._chance.random() < self._load.abandon
        owed, changes = dict(aggregate.events), aggregate.changes
        read = await self._store.read(aggregate.subject, deadline, durable=durable, abandon=abandon)
        found = aggregate.check(read, owed, self._writer.n)
        self._tell_all(aggregate, found)
        if all([await self._decide(aggregate, event, read, deadline) for event in found.missing]):
            aggregate.verified = max(aggregate.verified, changes)
        return read

    def _tell_all(self, aggregate: Aggregate, found: Findings) -> None:
        for name in ("duplicates", "forks", "reordered", "unexpected"):
            for event in getattr(found, name):
                self._tell(name, aggregate, asdict(event))
        for place in found.gaps:
            self._tell("gaps", aggregate, {"sequence": place})

    async def _decide(
        self, aggregate: Aggregate, event: Appended, read: list[Stored], deadline: float
    ) -> bool:
        """Say what became of an event that was acknowledged before a reading that did not show it; False: that reading was old."""
        fate = await self._fate(event, read, deadline)
        if fate == "stale":
            self._count("stale_reads", 1)
            return False
        state = {} if fate == "retention" else await self._store.state(deadline)
        if event.sequence not in aggregate.events:
            return True  # another reading has told it meanwhile
        aggregate.forget(event)
        self._count(f"lost_to_{fate}" if fate == "retention" else f"lost_in_{fate}", 1)
        if fate != "retention":
            where = "the stream does not have it" if fate == "stream" else "it was passed over in delivery"
            self._tell("lost", aggregate, {**asdict(event), "fate": fate, "state": state}, where)
        return True

    async def _fate(self, event: Appended, read: list[Stored], deadline: float) -> Fate:
        if await self._store.holds(event, deadline):
            # A consumer may read from a replica that is behind; but then it has nothing of what came after.
            later = any(other.sequence > event.sequence for other in read)
            return "delivery" if later else "stale"
        state = await self._store.state(deadline)
        gone = event.sequence < state["first_seq"] and time.monotonic() - event.at >= self._keeps
        return "retention" if gone else "stream"

    def _tell(self, name: str, aggregate: Aggregate, data: dict[str, Any], detail: str = "") -> None:
        self._count(name, 1)
        self._sound = False
        self._violations += 1
        if self._violations > TOLD:
            return
        invariant = _INVARIANTS.get(name, "an acknowledged event is read back")
        self._context.journal.emit(
            InvariantViolated(
                invariant=invariant,
                subject=f"load {self._context.name}: stream {self._load.event_store}",
                detail=f"{name} in aggregate {aggregate.subject}: {detail or _brief(data)}",
                data={"aggregate": aggregate.subject, **data},
            )
        )

    # --- the end -----------------------------------------------------------------------------------------------------

    async def last_look(self) -> bool:
        """Read what was not read back since its last append, then the others, which may have lost something since.

        Return whether nothing was ever wrong, as far as that is known.
        """
        rest = [aggregate for aggregate in self._aggregates if aggregate.dirty]
        others = [one for one in (*self._retired, *self._aggregates) if one.events and not one.dirty]
        deadline = time.monotonic() + LAST_LOOK
        queue = iter((*rest, *others))

        async def work() -> None:
            for aggregate in queue:
                try:
                    await self._read(aggregate, deadline, plain=True)
                except GaveUpError:
                    return

        with anyio.move_on_after(LAST_LOOK):
            async with anyio.create_task_group() as group:
                for _ in range(min(AT_ONCE, len(rest) + len(others))):
                    group.start_soon(work)
        undecided = sum(len(aggregate.events) for aggregate in rest if aggregate.dirty)
        if self._appended or undecided:
            self._count("undecided", undecided)
        for name in (
            () if undecided or not self._appended else (*SETTLED, "lost_in_stream", "lost_in_delivery")
        ):
            self._count(name, 0)
        return self._sound and not undecided


def _brief(data: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in data.items())
