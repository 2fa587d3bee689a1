"""The raw JetStream API: one request with a deadline, and lists over all their pages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, TypeVar

import anyio
import nats.errors
from pydantic_core import from_json

from supervisor.broker.client import BrokerError
from supervisor.broker.handle import Handle

CALL: Final = 5.0
"""Seconds for one call: a cluster that lost a node answers lists after 4."""
PASSES: Final = 3
AT_ONCE: Final = 64
"""Requests in flight: enough to hide the round trip, few enough not to be a load of their own."""

STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014
MESSAGE_NOT_FOUND: Final = 10037
NOT_AVAILABLE: Final = 10008
"""A server says that there is no meta leader at present."""

T = TypeVar("T")


class ApiError(BrokerError):
    """The JetStream API answered with an error."""

    def __init__(self, subject: str, error: Mapping[str, Any]) -> None:
        self.code = int(error.get("code", 0))
        """Like an HTTP status."""
        self.err_code = int(error.get("err_code", 0))
        """Which error it is, such as 10059 (stream not found)."""
        self.description = str(error.get("description", ""))
        super().__init__(f"{subject}: {self.description} ({self.err_code})")


class NobodyError(BrokerError):
    """No server answers the JetStream API at all ("no responders"), which is not the same as error 10008."""


async def call(
    handle: Handle, subject: str, body: Mapping[str, Any] | None = None, *, deadline: float = CALL
) -> dict[str, Any]:
    """Send one request to the JetStream API, `subject` being what follows its prefix, and return the answer.

    ApiError if the answer is an error, NobodyError if nobody listens, BrokerError if none came within `deadline` seconds.
    """
    return decoded(handle, subject, await ask(handle, subject, body, deadline=deadline))


async def ask(
    handle: Handle, subject: str, body: Mapping[str, Any] | None = None, *, deadline: float = CALL
) -> bytes:
    """Do what `call` does, but leave the answer as it came: read it with `decoded`."""
    where = f"{handle.api_prefix}.{subject}"
    try:
        msg = await handle.request(where, json.dumps(body).encode() if body else b"", timeout=deadline)
    except nats.errors.NoRespondersError as error:
        raise NobodyError(
            f"{where}: nobody answers; JetStream is off for this account or domain, or away"
        ) from error
    except (TimeoutError, nats.errors.TimeoutError) as error:
        raise BrokerError(f"{where}: no answer within {deadline:g}s") from error
    except (nats.errors.Error, OSError, ValueError) as error:
        raise BrokerError(f"{where}: {type(error).__name__}: {error}") from error
    return bytes(msg.data)


def decoded(handle: Handle, subject: str, raw: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer; ApiError if it is an error, BrokerError if it is no answer of the API."""
    where = f"{handle.api_prefix}.{subject}"
    try:
        answer = from_json(raw)
    except ValueError as error:
        raise BrokerError(f"{where}: expected JSON as the answer: {error}") from error
    if not isinstance(answer, dict):
        raise BrokerError(f"{where}: expected a JSON object as the answer")
    if "error" in answer:
        raise ApiError(where, answer["error"])
    return answer


async def pages(
    handle: Handle,
    subject: str,
    body: Mapping[str, Any],
    names: Callable[[dict[str, Any]], Collection[str]],
    *,
    deadline: float = CALL,
) -> set[str]:
    """Return the names on all pages of a list.

    Pages are cut by offset, so a change between two of them can hide a name: a list that changed meanwhile is read again, and what
    any pass saw counts as there.
    """
    found: set[str] = set()
    for _ in range(PASSES):
        offset, totals = 0, set()
        while True:
            answer = await call(handle, subject, {**body, "offset": offset}, deadline=deadline)
            page = names(answer)
            found.update(page)
            offset += len(page)
            total = int(answer.get("total", offset))
            totals.add(total)
            if not page or offset >= total:
                break
        if totals == {offset}:
            break
    return found


async def stream_names(handle: Handle) -> set[str]:
    """Return the names of all streams. They come from the meta leader, so none is missing because its own leader is away."""
    return await pages(handle, "STREAM.NAMES", {}, lambda answer: answer.get("streams") or ())


async def stream_subjects(handle: Handle, stream: str, filter_: str) -> set[str]:
    """Return the subjects of a stream that hold messages and match a filter."""
    return await pages(
        handle,
        f"STREAM.INFO.{stream}",
        {"subjects_filter": filter_},
        lambda answer: answer["state"].get("subjects") or (),
    )


async def each(items: Collection[T], act: Callable[[T], Awaitable[None]], *, at_once: int = AT_ONCE) -> None:
    """Do something with all items, `at_once` at a time; after the first BrokerError nothing new is begun and it is raised."""
    rest, failures = iter(items), list[BrokerError]()

    async def work() -> None:
        for item in rest:
            try:
                await act(item)
            except BrokerError as error:
                failures.append(error)
            if failures:
                return

    async with anyio.create_task_group() as group:
        for _ in range(min(at_once, len(items))):
            group.start_soon(work)
    if failures:
        raise failures[0]
