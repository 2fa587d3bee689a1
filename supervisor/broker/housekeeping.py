"""Removes what a soak's own load left behind: entries of named buckets and streams that match a regex.

What existed before the run is never touched: a stream is known by its name and its time of creation, an entry by its key and its
bucket's creation. What cannot be seen at the moment counts as there.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from supervisor.broker.api import (
    MESSAGE_NOT_FOUND,
    STREAM_NOT_FOUND,
    ApiError,
    call,
    each,
    stream_names,
    stream_subjects,
)
from supervisor.broker.client import BrokerError
from supervisor.broker.handle import Handle

_DELETED: Final = re.compile(rb"^(KV-Operation: *(DEL|PURGE)|Nats-Marker-Reason:)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as it was before the run."""

    created: str
    keys: frozenset[str]
    """Keys that had a value; deleted ones did not exist."""


@dataclass(frozen=True, slots=True)
class Existing:
    """What existed before the run, of what a cleanup is about."""

    streams: Mapping[str, str | None] = field(default_factory=dict)
    """Names with times of creation; None: it was there, but its leader did not say since when."""
    buckets: Mapping[str, Bucket | None] = field(default_factory=dict)
    """None: there was no such bucket."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a cleanup removed."""

    streams: int
    entries: int
    """Keys, deleted ones included whose marker was still there."""
    took: float
    """Seconds."""


async def snapshot(handle: Handle, buckets: Iterable[str], streams: str | None) -> Existing:
    """Note the entries of `buckets` and the streams whose whole name matches the regex `streams`.

    BrokerError if that could not be seen completely; each call has a deadline.
    """
    seen: dict[str, str | None] = {}

    async def look(name: str) -> None:
        try:
            created = await _created(handle, name)
        except BrokerError:
            seen[name] = None
        else:
            if created is not None:
                seen[name] = created

    await each(_matching(streams, await stream_names(handle)) if streams else (), look)
    return Existing(seen, {bucket: await _bucket(handle, bucket) for bucket in buckets})


async def cleanup(
    handle: Handle, *, buckets: Iterable[str], streams: str | None, existing: Existing | None
) -> Cleaned:
    """Remove all entries of `buckets` and the streams whose whole name matches the regex `streams`.

    What `existing` has stays; None means that everything goes. Entries are purged, which leaves no deletion markers: watchers are not
    told. BrokerError if something that should go is still there; each call has a deadline.
    """
    start = time.monotonic()
    entries = 0
    for bucket in buckets:
        if existing is not None and bucket not in existing.buckets:
            raise ValueError(f"the snapshot does not cover bucket {bucket}")
        entries += await _empty(handle, bucket, existing.buckets[bucket] if existing is not None else None)
    removed = (
        await _remove(handle, streams, existing.streams if existing is not None else {}) if streams else 0
    )
    return Cleaned(removed, entries, time.monotonic() - start)


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    compiled = re.compile(pattern)
    return sorted(name for name in names if compiled.fullmatch(name))


async def _created(handle: Handle, stream: str) -> str | None:
    """Return when a stream was created, None if there is no such stream."""
    try:
        return str((await call(handle, f"STREAM.INFO.{stream}"))["created"])
    except ApiError as error:
        if error.err_code == STREAM_NOT_FOUND:
            return None
        raise


async def _bucket(handle: Handle, bucket: str) -> Bucket | None:
    stream, prefix = f"KV_{bucket}", f"$KV.{bucket}."
    created = await _created(handle, stream)
    if created is None:
        return None
    keys: set[str] = set()

    async def look(subject: str) -> None:
        if await _has_value(handle, stream, subject):
            keys.add(subject.removeprefix(prefix))

    await each(await stream_subjects(handle, stream, f"{prefix}>"), look)
    return Bucket(created, frozenset(keys))


async def _has_value(handle: Handle, stream: str, subject: str) -> bool:
    """Say whether the last message of a key is a value: deletions are messages too, told by their header."""
    try:
        answer = await call(handle, f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    except ApiError as error:
        if error.err_code == MESSAGE_NOT_FOUND:
            return False
        raise
    return not _DELETED.search(base64.b64decode(answer["message"].get("hdrs") or ""))


async def _empty(handle: Handle, bucket: str, before: Bucket | None) -> int:
    stream, prefix = f"KV_{bucket}", f"$KV.{bucket}."
    try:
        info = await call(handle, f"STREAM.INFO.{stream}")
    except ApiError as error:
        if error.err_code == STREAM_NOT_FOUND:
            return 0
        raise
    if before is None or before.created != info["created"] or not before.keys:
        if info["state"]["messages"]:
            await call(handle, f"STREAM.PURGE.{stream}")
        return int(info["state"].get("num_subjects", 0))
    subjects = await stream_subjects(handle, stream, f"{prefix}>")
    new = [subject for subject in subjects if subject.removeprefix(prefix) not in before.keys]

    async def purge(subject: str) -> None:
        await call(handle, f"STREAM.PURGE.{stream}", {"filter": subject})

    await each(new, purge)
    return len(new)


async def _remove(handle: Handle, pattern: str, before: Mapping[str, str | None]) -> int:
    removed: list[str] = []

    async def remove(name: str) -> None:
        if name in before and (before[name] is None or await _created(handle, name) in (None, before[name])):
            return
        try:
            await call(handle, f"STREAM.DELETE.{name}")
        except ApiError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise
        else:
            removed.append(name)

    await each(_matching(pattern, await stream_names(handle)), remove)
    return len(removed)
