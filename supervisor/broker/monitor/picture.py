"""What is known of the broker, put together from lists, descriptions and announcements that may be late, old or incomplete.

It decides what is a change worth telling. No I/O: whoever asks the broker hands the answers in.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Final

from supervisor.broker.monitor.invariants import Finding, Ledger, Violation
from supervisor.broker.monitor.news import News
from supervisor.broker.monitor.presence import PATIENCE, Presence
from supervisor.broker.monitor.snapshot import Consumers, Stream
from supervisor.broker.ordered import OURS
from supervisor.journal.events import Event, InvariantViolated

URGENT: Final = 256
"""Streams to be asked about one by one; if there are more, the next look at all of them is quicker."""
FRESH: Final = 30.0
"""Seconds after which a stream that did not answer is left to that look, too."""
SILENT: Final = 32
"""Silent streams that are asked again in one round."""
REMEMBERED: Final = 1_000
"""Deleted streams, and consumers, that would be recognised if they came back."""
LEADERLESS: Final = 5.0
"""Seconds without a leader that a majority follows until that is told: shorter ones end by themselves."""
VIOLATIONS: Final = 100
"""Violations that are told in full; a broken cluster must not fill the disk."""


class Picture:
    """The streams and their consumers. Times are monotonic seconds."""

    def __init__(self, emit: Callable[[Event], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.news = News(emit, clock)
        self.presence = Presence()
        self.ledger = Ledger()
        self.streams: dict[str, Stream] = {}
        self.consumers: dict[str, Consumers] = {}
        self.urgent: dict[str, float] = {}
        """Streams to ask about soon, and when that was last wished for."""
        self.when_gone: dict[str, Callable[[], None]] = {}
        """What to call when a stream is gone."""
        self.meta_leader = ""
        self.violations = 0
        self._emit, self._clock = emit, clock
        self._graves: OrderedDict[str, str] = OrderedDict()
        """Deleted streams, with their times of creation."""
        self._ghosts: dict[str, float] = {}
        """Deleted streams that are listed again, since when: another of the name, or a list from the past."""
        self._silent: dict[str, None] = {}
        self._unled: dict[str, float] = {}
        self._unled_told: set[str] = set()
        self._lost: dict[tuple[str, str], float] = {}
        self._ended: OrderedDict[tuple[str, str], float] = OrderedDict()
        """Consumers whose end was announced, and when: a list that was asked for before may still have them."""

    # --- streams -----------------------------------------------------------------------------------------------------

    def see_names(self, names: frozenset[str], asked: float, *, whole: bool) -> None:
        """Take the list of all names that was asked for at a time."""
        difference = self.presence.see(names, asked=asked, now=self._clock(), whole=whole)
        for name in difference.created:
            self._welcome(name)
        for name in difference.gone:
            self._bury(name)
        self.hurry(difference.created + difference.again)

    def miss(self, name: str, asked: float) -> None:
        """Take the word that there is no stream of a name, as whoever makes the lists said to a request of a time."""
        self.relieve(name, asked)
        if self.presence.lack(name, asked):
            self._bury(name)

    def hear(self, stream: Stream, asked: float) -> None:
        """Take what a stream's leader, or whoever speaks for it, said to a request of a time."""
        name, known = stream.name, self.streams.get(stream.name)
        if name not in self.presence.there and not self._appears(stream, asked):
            return
        if known is not None and asked < known.seen:
            return
        if name in self._ghosts and not self._is_back(stream):
            return
        for finding in self.ledger.hear(stream, asked):
            self.find(finding)
        self._silent.pop(name, None)
        if not stream.quorum:
            self.streams[name] = _doubtful(known, stream)
            self._unled.setdefault(name, self._clock())
            return
        self.presence.settle(name, asked)
        self.relieve(name, asked)
        self._lead(name, stream.leader)
        if known is not None and known.leader and known.leader != stream.leader:
            self.news.leader("elected", "stream", f"{name}: {stream.leader}")
        self.streams[name] = stream

    def hurry(self, names: Iterable[str]) -> None:
        """Have streams asked about soon."""
        for name in names:
            if name in self.urgent or len(self.urgent) < URGENT:
                self.urgent[name] = self._clock()

    def relieve(self, name: str, asked: float) -> None:
        """A stream was asked about at a time; what was announced of it since then is not in the answer."""
        if name in self.urgent and self.urgent[name] <= asked:
            del self.urgent[name]

    def silence(self, names: Iterable[str]) -> None:
        """Take note of streams that exist and did not answer."""
        self._silent |= dict.fromkeys(names)

    @property
    def silent(self) -> list[str]:
        """Streams that exist and have not answered when they were last asked."""
        return [name for name in self._silent if name in self.presence.there]

    def wanted(self) -> list[str]:
        """Return the streams to ask about now: those in doubt, those that changed, and some of the silent ones in turn."""
        now = self._clock()
        self.urgent = {name: since for name, since in self.urgent.items() if now - since < FRESH}
        silent = self.silent
        self._silent = dict.fromkeys((*silent[SILENT:], *silent[:SILENT]))
        return list(dict.fromkeys((*self.ledger.doubts, *self.urgent, *silent[:SILENT])))

    def tick(self) -> None:
        """Tell what is due by now."""
        now = self._clock()
        for finding in self.ledger.expire(now):
            self.find(finding)
        for name, since in self._unled.items():
            if now - since >= LEADERLESS and name not in self._unled_told:
                self._unled_told.add(name)
                self.news.leader("quorum-lost", "stream", name)
        self.news.flush()

    def _welcome(self, name: str) -> None:
        """A name that was not there is listed, or described."""
        if name in self._graves:
            self._ghosts[name] = self._clock()
        else:
            self.news.stream("created", name)

    def _appears(self, stream: Stream, asked: float) -> bool:
        """Say whether a stream that no list has had yet is there: its creation was announced, and its leader describes it."""
        name = stream.name
        if not stream.quorum or self._graves.get(name) == stream.created:
            return False
        if not self.presence.appear(name, asked):
            return False
        self._welcome(name)
        return True

    def _is_back(self, stream: Stream) -> bool:
        """Say whether a deleted stream that is listed again is there; a server that was paused meanwhile still has the old one."""
        name, same = stream.name, self._graves.get(stream.name) == stream.created
        if not stream.quorum or (same and self._clock() - self._ghosts[name] < PATIENCE):
            return False
        self.news.stream(
            "reappeared" if same else "created", name, f"created {stream.created}" if same else ""
        )
        del self._ghosts[name]
        self._graves.pop(name, None)
        return True

    def _bury(self, name: str) -> None:
        if name in self._ghosts:
            del self._ghosts[name]
            return
        self.news.stream("deleted", name)
        if (stream := self.streams.pop(name, None)) is not None:
            self._graves[name] = stream.created
            if len(self._graves) > REMEMBERED:
                self._graves.popitem(last=False)
        for about in (self.consumers, self.urgent, self._unled, self._silent):
            about.pop(name, None)
        self._unled_told.discard(name)
        self._lost = {key: since for key, since in self._lost.items() if key[0] != name}
        self.ledger.forget(name)
        if told := self.when_gone.get(name):
            told()

    def _lead(self, name: str, leader: str) -> None:
        """A stream has a leader that a majority follows."""
        self._unled.pop(name, None)
        if name in self._unled_told:
            self._unled_told.discard(name)
            self.news.leader("quorum-regained", "stream", f"{name}: {leader}")

    # --- what is found -----------------------------------------------------------------------------------------------

    def find(self, finding: Finding) -> None:
        """Tell what is certain of a stream."""
        if isinstance(finding, Violation):
            self.violate(finding)
        else:
            self.news.stream(finding.change, finding.stream, finding.detail)

    def violate(self, violation: Violation) -> None:
        """Tell of a violation."""
        self.violations += 1
        if self.violations <= VIOLATIONS:
            self._emit(InvariantViolated(**asdict(violation)))

    # --- consumers ---------------------------------------------------------------------------------------------------

    def summarise(self, stream: str, now: Consumers) -> None:
        """Take what is known of a stream's consumers, asked at `now.seen`. A durable one that looks miss for long enough is gone."""
        known = self.consumers.get(stream, now)
        if stream not in self.presence.there or now.seen < known.seen:
            return
        ended = {name for name in now.durables if self._ended.get((stream, name), now.seen) > now.seen}
        now = replace(now, durable=now.durable - len(ended), durables=now.durables - ended)
        before = known.durables - ended
        for name in before - now.durables if not now.missing else ():
            self._lost.setdefault((stream, name), now.seen)
        lost = [key for key in self._lost if key[0] == stream]
        for key in lost:
            if key[1] in now.durables:
                del self._lost[key]
            elif not now.missing and now.seen - self._lost[key] >= PATIENCE:
                del self._lost[key]
                self.news.consumer("deleted", " > ".join(key), "nobody announced it")
        if now.missing:
            now = replace(now, durables=now.durables | before)
        if now.durable or now.ephemeral or now.missing or any(key in self._lost for key in lost):
            self.consumers[stream] = now
        else:
            self.consumers.pop(stream, None)

    # --- announcements -----------------------------------------------------------------------------------------------

    def announce(self, group: str, what: str, names: tuple[str, ...], leader: str) -> None:
        """Take an advisory."""
        match group, names:
            case "STREAM", (stream,):
                self._announce_stream(what, stream, leader)
            case "CONSUMER", (stream, consumer) if not consumer.startswith(OURS):
                self._announce_consumer(what, stream, consumer, leader)
            case "DOMAIN", _ if leader:
                self.meta_leader = leader
                self.news.leader("elected", "meta", leader)

    def _announce_stream(self, what: str, name: str, leader: str) -> None:
        known = self.streams.get(name)
        match what:
            case "DELETED":
                self.presence.announce(name, self._clock())
                self.ledger.deleted(name)
                if name in self.presence.there:
                    self.hurry([name])
            case "CREATED" if name not in self.presence.there:
                self.presence.expect(name, self._clock())
                self.hurry([name])
            case "RESTORE_COMPLETE":
                self.ledger.forget(name)
            case "LEADER_ELECTED":
                self.news.leader("elected", "stream", f"{name}: {leader}")
                if known is not None:
                    self.streams[name] = replace(known, leader=leader)
                self.hurry([name])
            case "QUORUM_LOST":
                if name in self.presence.there:  # it may be late: unless somebody leads now, it is told soon
                    self._unled.setdefault(name, self._clock())
                    self.hurry([name])
            case _:
                if name in self.presence.there:
                    self.hurry([name])

    def _announce_consumer(self, what: str, stream: str, name: str, leader: str) -> None:
        title = f"{stream} > {name}"
        match what:
            case "CREATED":
                self.news.consumer("created", title)
                self._ended.pop((stream, name), None)
            case "DELETED":
                self.news.consumer("deleted", title)
                self._lost.pop((stream, name), None)
                self._ended[stream, name] = self._clock()
                if len(self._ended) > REMEMBERED:
                    self._ended.popitem(last=False)
                if known := self.consumers.get(stream):
                    self.consumers[stream] = replace(known, durables=known.durables - {name})
            case "LEADER_ELECTED":
                self.news.leader("elected", "consumer", f"{title}: {leader}")
            case "QUORUM_LOST":
                self.news.leader("quorum-lost", "consumer", title)
            case "MAX_DELIVERIES":
                self.news.consumer("max-deliveries", title)


def _doubtful(known: Stream | None, said: Stream) -> Stream:
    """Return a stream with the numbers of its last authoritative description, and what is known of its replicas now."""
    if known is None or known.created != said.created:
        return said
    return replace(known, leader=said.leader, current=said.current, lag=said.lag, quorum=False)
