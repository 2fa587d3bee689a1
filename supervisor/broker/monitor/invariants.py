"""What may never be false of a stream, judged from answers that may be late, stale or about another stream of the same name.

A stream is known by its name and its time of creation. While that is the same, its first and last sequence never go back; and the
message at a sequence stays the one it was, or goes, but is never replaced. Nothing is judged by one answer: whatever looks wrong is
asked again, of a leader that a majority follows, for longer than a new leader needs to catch up. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from supervisor.broker.monitor.snapshot import Stream

CONFIRM: Final = 10.0
"""Seconds for which a leader must insist on something wrong."""
ANSWERS: Final = 3
"""Answers it must have given in that time."""
EXPIRED: Final = 60.0
"""Seconds after which a question that nobody answers is dropped."""
QUESTIONS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant was violated, beyond doubt."""

    invariant: str
    subject: str
    detail: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replaced:
    """A stream lost what it held, legally: it was created again, or it is kept in memory and its server restarted."""

    change: Literal["recreated", "reset"]
    stream: str
    detail: str


Finding = Violation | Replaced


@dataclass(frozen=True, slots=True)
class Question:
    """When was the message stored that is now at the last sequence we knew? Ask the stream's leader, and `Ledger.answer`."""

    before: Stream
    now: Stream
    about: Literal["content", "created"]


@dataclass(slots=True)
class Doubt:
    """Something looks wrong, but may yet turn out to be old news."""

    before: Stream
    broken: tuple[str, ...]
    leader: str
    since: float
    answers: int = 0


@dataclass(slots=True)
class Ledger:
    """The latest trustworthy state of every stream, and what does not fit to it."""

    marks: dict[str, Stream] = field(default_factory=dict)
    doubts: dict[str, Doubt] = field(default_factory=dict)
    questions: dict[str, Question] = field(default_factory=dict)
    _deleted: set[str] = field(default_factory=set)

    def hear(self, stream: Stream, asked: float) -> list[Finding]:
        """Take what a stream's leader said to a request of the time `asked`, and return what is certain by now."""
        mark = self.marks.get(stream.name)
        if not stream.quorum or (mark is not None and asked < mark.seen):
            return []
        if mark is None or mark.created == stream.created:
            self._deleted.discard(stream.name)
            return self._compare(mark or stream, stream)
        if stream.name in self._deleted:
            self.forget(stream.name)
            self.marks[stream.name] = stream
            return [_recreated(mark, stream)]
        if instant(stream.created) < instant(mark.created):
            return self._doubt(mark, stream, ("created",))
        return self._recreate(mark, stream)

    def deleted(self, name: str) -> None:
        """Take note of an announced deletion: a stream that is another one afterwards is nothing to wonder about."""
        if name in self.marks:
            self._deleted.add(name)

    def forget(self, name: str) -> None:
        """A stream is gone; what comes under its name later is another one."""
        self.marks.pop(name, None)
        self.doubts.pop(name, None)
        self.questions.pop(name, None)
        self._deleted.discard(name)

    def answer(self, question: Question, stored: str | None) -> list[Finding]:
        """Take the answer to a question: when the message was stored, None if it is no longer there.

        For `content` the caller has made sure, after the answer, that the stream still is the one of the question.
        """
        before, now = question.before, question.now
        self.questions.pop(before.name, None)
        if question.about == "created":
            if stored != before.last_time:
                return [_recreated(before, now)]
            return [_violation("created", before, now, "changed, though it still holds its former messages")]
        if stored is None or stored == before.last_time:
            return []
        if now.memory:
            return [_reset(before, now)]
        text = (
            f"has another message at sequence {before.last}: one of {before.last_time} became one of {stored}"
        )
        return [_violation("last_seq", before, now, text)]

    def expire(self, now: float) -> list[Finding]:
        """Drop questions that nobody answered in time."""
        findings: list[Finding] = []
        for question in [q for q in self.questions.values() if now - q.now.seen > EXPIRED]:
            del self.questions[question.before.name]
            if question.about == "created":
                findings.append(_recreated(question.before, question.now))
        return findings

    # --- the rules ---------------------------------------------------------------------------------------------------

    def _compare(self, mark: Stream, stream: Stream) -> list[Finding]:
        if broken := tuple(_broken(mark, stream)):
            return self._doubt(mark, stream, broken)
        doubted = self.doubts.pop(stream.name, None)
        if (doubted is not None and "last_seq" in doubted.broken) or mark.leader != stream.leader:
            self._ask(Question(mark, stream, "content"))
        self.marks[stream.name] = stream
        return []

    def _doubt(self, mark: Stream, stream: Stream, broken: tuple[str, ...]) -> list[Finding]:
        doubt = self.doubts.get(stream.name)
        if doubt is None or doubt.leader != stream.leader or doubt.broken != broken:
            doubt = self.doubts[stream.name] = Doubt(mark, broken, stream.leader, stream.seen)
        doubt.answers += 1
        if stream.seen - doubt.since < CONFIRM or doubt.answers < ANSWERS:
            return []
        self.forget(stream.name)
        self.marks[stream.name] = stream
        if stream.memory and "created" not in broken:
            return [_reset(mark, stream)]
        said = f"went back, and {doubt.answers} answers in {stream.seen - doubt.since:.0f}s insist on it"
        return [_violation(name, mark, stream, said) for name in broken]

    def _recreate(self, mark: Stream, stream: Stream) -> list[Finding]:
        self.forget(stream.name)
        self.marks[stream.name] = stream
        if not mark.messages or mark.copied or stream.copied or stream.last < mark.last:
            return [_recreated(mark, stream)]
        self._ask(Question(mark, stream, "created"))
        return []

    def _ask(self, question: Question) -> None:
        if question.before.messages and len(self.questions) < QUESTIONS:
            self.questions[question.before.name] = question


def _broken(mark: Stream, stream: Stream) -> Iterator[str]:
    if stream.last < mark.last:
        yield "last_seq"
    if stream.first < mark.first and not (mark.expires or stream.expires):
        yield "first_seq"


_SHOWN: Final = {"last_seq": "last", "first_seq": "first", "created": "created"}


def _violation(invariant: str, before: Stream, now: Stream, text: str) -> Violation:
    field_ = _SHOWN[invariant]
    change = f"{getattr(before, field_)} -> {getattr(now, field_)}"
    detail = f"{invariant} of stream {before.name} {text}: {change}, leader {before.leader or '-'} -> {now.leader or '-'}"
    data = {"before": asdict(before), "now": asdict(now), "deletion_seen": False}
    return Violation(f"stream {invariant}", before.name, detail, data)


def _recreated(before: Stream, now: Stream) -> Replaced:
    return Replaced("recreated", now.name, f"{before.created} -> {now.created}")


def _reset(before: Stream, now: Stream) -> Replaced:
    return Replaced("reset", now.name, f"kept in memory; it was at message {before.last}, now at {now.last}")


def instant(text: str) -> datetime:
    """Return a time as the server writes it in a form that compares right, to the microsecond."""
    return datetime.fromisoformat(text)
