"""Reads streams and consumers from the JetStream API, and says which answers are authoritative.

Existence comes from STREAM.NAMES, which the meta leader answers. Numbers come from a stream's own leader. In a cluster STREAM.LIST
asks all leaders and waits 4 s for those that are silent; what it names under `missing` is unknown, and the record it may show for
such a stream is made up by the meta leader, with zeros (nats-server 2.15, `jsClusteredStreamListRequest`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from supervisor.broker.api import MESSAGE_NOT_FOUND, PASSES, ApiError, ask, call, decoded, pages
from supervisor.broker.handle import Handle
from supervisor.broker.leadership import is_authoritative
from supervisor.broker.monitor.snapshot import Consumers, Stream
from supervisor.broker.ordered import OURS


class Names:
    """All names of streams. A page whose bytes did not change is not read again: 10,000 names cost 1 ms instead of 5."""

    def __init__(self) -> None:
        self.all: frozenset[str] = frozenset()
        self._pages: dict[int, tuple[bytes, list[str], int]] = {}

    async def read(self, handle: Handle, deadline: float) -> bool:
        """Bring `all` up to date; say whether it was read in one piece. BrokerError if there is no answer in time.

        Pages are cut by offset: a deletion between two of them can hide a name. What any pass saw counts as there; if the list
        never stood still, a missing name says nothing.
        """
        found: set[str] = set()
        changed = whole = False
        for _ in range(PASSES):
            offset, totals = 0, set()
            while True:
                names, total, new = await self._page(handle, offset, deadline)
                changed |= new
                found.update(names)
                offset += len(names)
                totals.add(total)
                if not names or offset >= total:
                    break
            if totals == {offset}:
                whole = True
                break
        if changed or len(found) != len(self.all):
            self.all = frozenset(found)
        for left in [start for start in self._pages if start > len(found)]:
            del self._pages[left]
        return whole

    async def _page(self, handle: Handle, offset: int, deadline: float) -> tuple[list[str], int, bool]:
        raw = await ask(handle, "STREAM.NAMES", {"offset": offset}, deadline=deadline)
        known = self._pages.get(offset)
        if known is not None and known[0] == raw:
            return known[1], known[2], False
        answer = decoded(handle, "STREAM.NAMES", raw)
        names = answer.get("streams") or []
        total = int(answer.get("total", 0))
        self._pages[offset] = raw, names, total
        return names, total, True


@dataclass(frozen=True, slots=True)
class Page:
    """A page of descriptions."""

    streams: list[Stream] = field(default_factory=list)
    missing: frozenset[str] = frozenset()
    """Streams that exist, of which nothing is known at present."""
    following: int | None = None
    """The offset of the next page, None after the last."""


async def describe(handle: Handle, offset: int, deadline: float) -> Page:
    """Read one page of STREAM.LIST; BrokerError if there is no answer in time."""
    answer = await call(handle, "STREAM.LIST", {"offset": offset}, deadline=deadline)
    missing = frozenset(answer.get("missing") or ())
    listed = answer.get("streams") or []
    now = time.monotonic()
    streams = [parse(info, now) for info in listed if info["config"]["name"] not in missing]
    reached = offset + len(missing | {info["config"]["name"] for info in listed})
    more = reached > offset and reached < int(answer.get("total", 0))
    return Page(streams, missing, reached if more else None)


async def look(handle: Handle, name: str, deadline: float) -> Stream:
    """Ask the leader of one stream; ApiError, NobodyError or BrokerError as `api.call` has them."""
    info = await call(handle, f"STREAM.INFO.{name}", deadline=deadline)
    return parse(info, time.monotonic())


async def stored_at(handle: Handle, stream: str, sequence: int, deadline: float) -> str | None:
    """Return when the message at a sequence was stored, as the server writes it; None if there is no such message."""
    try:
        answer = await call(handle, f"STREAM.MSG.GET.{stream}", {"seq": sequence}, deadline=deadline)
    except ApiError as error:
        if error.err_code == MESSAGE_NOT_FOUND:
            return None
        raise
    return str(answer["message"]["time"])


async def subjects_held(handle: Handle, stream: str, filter_: str) -> tuple[set[str], int]:
    """Return the subjects that hold messages and match a filter, and the last sequence of whoever said so.

    That may be a leader which was paused and does not know that it is none: what is above its last sequence it cannot know.
    """
    lasts: list[int] = []

    def subjects(answer: dict[str, Any]) -> Collection[str]:
        lasts.append(int(answer["state"]["last_seq"]))
        return answer["state"].get("subjects") or ()

    found = await pages(handle, f"STREAM.INFO.{stream}", {"subjects_filter": filter_}, subjects)
    return found, min(lasts)


def parse(info: Mapping[str, Any], now: float) -> Stream:
    """Return the stream that a description of the API stands for."""
    config, state, cluster = info["config"], info["state"], info.get("cluster") or {}
    replicas = cluster.get("replicas") or ()
    configured = int(config.get("num_replicas", 1))
    leader = str(cluster.get("leader") or "")
    return Stream(
        name=config["name"],
        created=info["created"],
        seen=now,
        messages=state["messages"],
        bytes=state["bytes"],
        first=state["first_seq"],
        last=state["last_seq"],
        last_time=state.get("last_ts", ""),
        subjects=state.get("num_subjects", 0),
        consumers=state.get("consumer_count", 0),
        leader=leader,
        replicas=configured,
        current=1 + sum(bool(peer.get("current")) for peer in replicas),
        lag=max((peer.get("lag", 0) for peer in replicas), default=0),
        quorum=not cluster or is_authoritative(leader, replicas),
        memory=config.get("storage") == "memory",
        copied=bool(config.get("mirror") or config.get("sources")),
        expires=config.get("retention", "limits") != "limits"
        or bool(config.get("max_age") or config.get("allow_msg_ttl")),
        erasable=not config.get("deny_delete"),
    )


async def summarise(handle: Handle, stream: str, deadline: float) -> Consumers:
    """Read all consumers of a stream, as they are now or later; BrokerError if there is no answer in time."""
    asked = time.monotonic()
    infos: dict[str, Mapping[str, Any]] = {}
    missing: set[str] = set()
    offset = 0
    while True:
        answer = await call(handle, f"CONSUMER.LIST.{stream}", {"offset": offset}, deadline=deadline)
        page = {info["name"]: info for info in answer.get("consumers") or ()}
        silent = set(answer.get("missing") or ())
        infos.update(page)
        missing |= silent
        offset += len(page.keys() | silent)
        if not (page or silent) or offset >= int(answer.get("total", 0)):
            break
    ours = [name for name in infos if name.startswith(OURS)]
    known = [infos[name] for name in infos.keys() - missing - set(ours)]
    return add_up(known, sum(not name.startswith(OURS) for name in missing), asked)


def add_up(infos: Collection[Mapping[str, Any]], missing: int, now: float) -> Consumers:
    """Return the sums over consumers as the API describes them."""
    durables = frozenset(info["name"] for info in infos if info["config"].get("durable_name"))
    return Consumers(
        seen=now,
        durable=len(durables),
        ephemeral=len(infos) - len(durables),
        idle=sum(not _has_interest(info) for info in infos),
        pending=sum(info.get("num_pending", 0) for info in infos),
        ack_pending=sum(info.get("num_ack_pending", 0) for info in infos),
        redelivered=sum(info.get("num_redelivered", 0) for info in infos),
        missing=missing,
        durables=durables,
    )


def _has_interest(info: Mapping[str, Any]) -> bool:
    pushed = "deliver_subject" in info["config"]
    return bool(info.get("push_bound") if pushed else info.get("num_waiting"))
