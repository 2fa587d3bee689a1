"""The consumers that a load makes and gives up, and those of them that stay although they should be gone."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from supervisor.broker import api
from supervisor.broker.connection import Handle

EPHEMERAL: Final = 5.0
"""Seconds without a fetch after which the server removes an ephemeral consumer."""
DURABLE: Final = 300.0
"""The same for a durable one, should soakd be gone; so long does it keep its place while nobody fetches."""
SLACK: Final = 120.0
"""Seconds by which the server may be late with that: if the leader of the cluster was away, nats-server tries again half a minute later,
and after that a minute later (`consumer.deleteNotActive`); a node that was away begins to count anew.
"""
STALE: Final = ("stale_ephemerals", "stale_durables")
ENDED: Final = 20_000
"""Consumers of which is remembered that they are to be gone."""


class Consumer:
    """One consumer, from its first mention on."""

    def __init__(self, name: str, *, durable: bool) -> None:
        self.name, self.durable = name, durable
        self.ended = False
        """The server has said that it is deleted; otherwise it is left to its inactivity."""

    def config(self, subject: str) -> dict[str, Any]:
        """Return what the server is told to make, for the events of one aggregate from the first on."""
        config: dict[str, Any] = {"name": self.name, "filter_subject": subject, "deliver_policy": "all"}
        if self.durable:
            own = {"durable_name": self.name, "ack_policy": "all", "inactive_threshold": int(DURABLE * 1e9)}
        else:
            own = {
                "ack_policy": "none",
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": int(EPHEMERAL * 1e9),
            }
        return config | own


class _Ended(NamedTuple):
    """A consumer that is no longer used."""

    due: float
    """When it should be gone at the latest, in monotonic seconds."""
    again: bool = False
    """It is to be deleted once more if it is seen: a durable one does not go by itself."""
    durable: bool = False
    told: bool = False


class Consumers:
    """All of one life of a load; their names begin with `prefix`."""

    def __init__(self, prefix: str, count: Callable[[str, float], None]) -> None:
        """`count` takes `ephemerals` and `durables` (made), `stale_ephemerals` and `stale_durables`."""
        self.prefix, self._count = prefix, count
        self._made = 0
        self._ended: OrderedDict[str, _Ended] = OrderedDict()

    @contextmanager
    def one(self, *, durable: bool) -> Iterator[Consumer]:
        """Give a name to a consumer in use; afterwards it is to be gone, soon or when the server has noticed."""
        self._made += 1
        consumer = Consumer(f"{self.prefix}{self._made}", durable=durable)
        self._count("durables" if durable else "ephemerals", 1)
        try:
            yield consumer
        finally:
            patience = 0.0 if consumer.ended or durable else EPHEMERAL
            self._ended[consumer.name] = _Ended(time.monotonic() + patience + SLACK, again=durable)
            if len(self._ended) > ENDED:
                self._ended.popitem(last=False)

    async def look(self, handle: Handle, stream: str, deadline: float) -> None:
        """Count those that should be gone and are there, once each, and forget those that are gone; BrokerError.

        `deadline`: seconds for each page of the list.
        """
        asked = time.monotonic()
        there = await self._there(handle, stream, deadline)
        for name, ended in list(self._ended.items()):
            if name not in there:
                if ended.due < asked:
                    del self._ended[name]
            elif ended.again:  # nobody answered, or a request to make it that had gone unanswered came late
                await self._delete(handle, stream, name, deadline)
                self._ended[name] = _Ended(time.monotonic() + SLACK, durable=True)
            elif ended.due < asked and not ended.told:
                self._count("stale_durables" if ended.durable else "stale_ephemerals", 1)
                self._ended[name] = ended._replace(told=True)
        for counter in STALE:  # somebody has looked
            self._count(counter, 0)

    async def clear(self, handle: Handle, stream: str, deadline: float) -> None:
        """Delete all that are left; BrokerError if that cannot be done."""

        async def delete(name: str) -> None:
            await self._delete(handle, stream, name, deadline)

        await api.each(await self._there(handle, stream, deadline), delete)

    async def _delete(self, handle: Handle, stream: str, name: str, deadline: float) -> None:
        try:
            await api.call(handle, f"CONSUMER.DELETE.{stream}.{name}", deadline=deadline)
        except api.ApiError as error:
            if error.err_code != api.CONSUMER_NOT_FOUND:
                raise

    async def _there(self, handle: Handle, stream: str, deadline: float) -> set[str]:
        names = await api.pages(
            handle,
            f"CONSUMER.NAMES.{stream}",
            {},
            lambda answer: answer.get("consumers") or (),
            deadline=deadline,
        )
        return {name for name in names if name.startswith(self.prefix)}
