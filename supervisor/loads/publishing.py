"""One message to a stream: sent once, and what the stream said to it."""

from __future__ import annotations

from typing import Final, NamedTuple

from pydantic_core import from_json

from supervisor.broker.connection import Handle
from supervisor.loads.clients import NotSentError
from supervisor.loads.executor import TIMEOUT, Failure
from supervisor.loads.questions import NobodyError, Questions, UnansweredError

WRONG_LAST: Final = (10071, 10164)
"""Error codes of a stream whose last message of the subject is another than was expected."""
CONFLICT: Final = Failure("wrong last sequence")
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"


class PubAck(NamedTuple):
    """What a stream says of a message that it has taken. It does not say which server does: only the stream's leader may."""

    sequence: int
    stream: str
    duplicate: bool
    """The stream had it already, by its `Nats-Msg-Id`."""


async def publish(
    questions: Questions, subject: str, payload: bytes, headers: dict[str, str] | None = None
) -> PubAck | Failure:
    """Return the acknowledgement, or why there is none: `CONFLICT`, `TIMEOUT` (it may be stored all the same), others."""
    try:
        answer = await questions.ask(subject, payload, headers)
    except UnansweredError:
        return TIMEOUT
    except NobodyError:
        return Failure("no stream response")
    except NotSentError as error:
        return Failure(f"not sent: {error}")
    return _acknowledged(answer.data)


def _acknowledged(data: bytes) -> PubAck | Failure:
    try:
        ack = from_json(data)
        if refused := ack.get("error"):
            code = refused.get("err_code", "?")
            known = code in WRONG_LAST
            return CONFLICT if known else Failure(f"error {code}", str(refused.get("description", "")))
        return PubAck(int(ack["seq"]), str(ack.get("stream", "")), bool(ack.get("duplicate")))
    except (ValueError, KeyError, AttributeError, TypeError):
        return Failure("no acknowledgement", repr(data[:80]))


async def compare_and_set(questions: Questions, subject: str, payload: bytes, expected: int) -> int | Failure:
    """Publish if the subject's last message is `expected`, 0: if it has none; return its place, or why it has none."""
    answer = await publish(questions, subject, payload, {EXPECTED: str(expected)})
    return answer.sequence if isinstance(answer, PubAck) else answer


def subject_prefix(handle: Handle) -> str:
    """Return what comes before a bucket's subjects: nothing, but in a JetStream domain."""
    return "" if handle.api_prefix == "$JS.API" else f"{handle.api_prefix}."
