"""Single messages of streams and entries of buckets: read as they are stored, and written only over what was read."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import nats.errors

from supervisor.broker.api import CALL, MESSAGE_NOT_FOUND, STREAM_NOT_FOUND, ApiError, call
from supervisor.broker.connection import BrokerError, Handle

WRONG_LAST_SEQUENCE: Final = frozenset({10070, 10071, 10164})
"""Errors of a server that has something newer than was expected."""
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_OPERATION: Final = "KV-Operation"
_NOT_REPEATED: Final = re.compile(r"nats-msg-id|nats-expected-.*", re.IGNORECASE)


class ChangedError(BrokerError):
    """Somebody else has written meanwhile."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as a stream has it."""

    seq: int
    subject: str
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_value(self) -> bool:
        """Whether it is an entry's value, not the marker of its deletion."""
        return _OPERATION not in self.headers and "Nats-Marker-Reason" not in self.headers

    def repeatable(self) -> dict[str, str]:
        """Return its headers without those that would keep a second one out."""
        return {key: value for key, value in self.headers.items() if not _NOT_REPEATED.fullmatch(key)}


async def message(handle: Handle, stream: str, which: Mapping[str, Any]) -> Stored | None:
    """Return a message: `{"seq": 7}`, `{"last_by_subj": ...}` or `{"seq": 7, "next_by_subj": ...}`; None if it, or the stream, is not there."""
    try:
        found = (await call(handle, f"STREAM.MSG.GET.{stream}", which))["message"]
    except ApiError as error:
        if error.err_code in {MESSAGE_NOT_FOUND, STREAM_NOT_FOUND}:
            return None
        raise
    lines = base64.b64decode(found.get("hdrs") or "").decode(errors="replace").split("\r\n")[1:]
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    headers = {key.strip(): value.strip() for key, value in pairs}
    data = base64.b64decode(found.get("data") or "")
    return Stored(found["seq"], found["subject"], data, headers)


async def entry(handle: Handle, bucket: str, key: str) -> Stored | None:
    """Return what a bucket has last of a key, be it a value or the marker of a deletion."""
    return await message(handle, f"KV_{bucket}", {"last_by_subj": f"$KV.{bucket}.{key}"})


async def put(  # noqa: PLR0917  # who, where, what, over what
    handle: Handle, bucket: str, key: str, value: bytes, over: int, headers: Mapping[str, str] | None = None
) -> None:
    """Write an entry over revision `over` (0: over nothing); ChangedError if the last one is another by now."""
    await _write(handle, bucket, key, value, {**(headers or {}), _EXPECTED: str(over)})


async def delete(
    handle: Handle, bucket: str, key: str, over: int, headers: Mapping[str, str] | None = None
) -> None:
    """Delete an entry, its history stays; ChangedError if its last revision is not `over` by now."""
    await _write(handle, bucket, key, b"", {**(headers or {}), _EXPECTED: str(over), _OPERATION: "DEL"})


async def purge(handle: Handle, bucket: str, key: str, over: int) -> None:
    """Delete an entry with its history; ChangedError if its last revision is not `over` by now."""
    headers = {_EXPECTED: str(over), _OPERATION: "PURGE", "Nats-Rollup": "sub"}
    await _write(handle, bucket, key, b"", headers)


async def _write(handle: Handle, bucket: str, key: str, value: bytes, headers: Mapping[str, str]) -> None:
    domain = "" if handle.api_prefix == "$JS.API" else f"{handle.api_prefix}."
    subject = f"{domain}$KV.{bucket}.{key}"
    try:
        answer = json.loads((await handle.request(subject, value, CALL, headers=dict(headers))).data)
    except (nats.errors.Error, TimeoutError, OSError, ValueError) as error:
        raise BrokerError(f"cannot write entry {key} of {bucket}: {type(error).__name__}: {error}") from error
    if problem := answer.get("error"):
        if problem.get("err_code") in WRONG_LAST_SEQUENCE:
            raise ChangedError(f"entry {key} of {bucket} was changed meanwhile")
        raise BrokerError(f"cannot write entry {key} of {bucket}: {problem.get('description')}")
