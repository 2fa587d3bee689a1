"""The fault that damages what the system has stored, or sends it what it should not get."""

from __future__ import annotations

import random
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from supervisor.broker.api import STREAM_NOT_FOUND, ApiError, pages, stream_subjects
from supervisor.broker.connection import BrokerError, Handle
from supervisor.broker.stored import ChangedError, Stored, delete, entry, message, purge, put
from supervisor.engines.process import words
from supervisor.faults.base import Aim, CannotAim, Layout, Problem, Site, UndoError, World
from supervisor.faults.command import NONE, Argv, CommandFailed, absent, again, run
from supervisor.faults.corruption import (
    MOST_ENTRIES,
    Corruption,
    Duplicates,
    Key,
    Keys,
    Published,
    damaged,
    noise,
)
from supervisor.faults.nats import Sparing
from supervisor.journal.events import FaultIntent

MARK: Final = "Soakd-Episode"
"""The header by which undo knows what inject has written, and the next aim what will be put back."""
FOR_GOOD: Final = " for good"
"""How the mark ends of what nobody will put back."""
MOST_BYTES: Final = 262_144
"""What one episode remembers in the journal, to put it back."""
CANARY: Final = 2.0
Entry = dict[str, Any]


def _undo(written: object) -> object:
    return written if written in ("restore", NONE) else words(written)


class Corrupt(Sparing):
    """Change, delete or add entries of a bucket, publish messages that are malformed or come twice, or run a command.

    Each entry is written over the revision that was aimed at, and marked: what somebody else writes meanwhile is neither lost nor taken
    for ours. Undo puts the old value back where the mark is still the last word.
    """

    key: ClassVar[str] = "corrupt"

    corrupt: Corruption = Field(
        description="What is done: one of change, delete, put, publish, duplicate or command."
    )
    takes_back: Annotated[
        Literal["restore", "none"] | Argv | None,
        BeforeValidator(_undo, json_schema_input_type=str | list[str]),
    ] = Field(
        None,
        alias="undo",
        description="restore: put old values back (for entries, the default); none; or, for a command, the one that takes it back.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        undo, what = self.takes_back, self.corrupt
        if what.entries and not (undo is None or isinstance(undo, str)):
            raise ValueError("undo: expected restore or none; a command takes back what a command has done")
        if (what.publish or what.duplicate) and undo != NONE:
            raise ValueError("undo: has to be none: messages that were published cannot be taken back")
        if what.command and (undo is None or undo == "restore"):
            raise ValueError("undo: expected the command that takes it back, or none")
        if undo == NONE and self.hold:
            raise ValueError("hold: with undo: none nothing is taken back after it, leave hold out")
        if undo != NONE and not self.hold:
            raise ValueError("hold: is missing: how long the damage stays before it is taken back")
        return self

    @property
    def undo_needs_broker(self) -> bool:
        """Entries are put back over a connection."""
        return self.corrupt.entries is not None and self.takes_back != NONE

    def problems(self, layout: Layout) -> Iterator[Problem]:
        """A broker, or a connection to it, that is not there; a command may do without."""
        if self.corrupt.command is None:
            yield from super().problems(layout)

    def missing(self, layout: Layout, site: Site) -> Iterator[str]:  # noqa: ARG002  # it is about programs alone
        """Programs that are not there."""
        undo = self.takes_back if isinstance(self.takes_back, tuple) else None
        for argv in (self.corrupt.command, undo):
            if argv and (why := absent(argv, site.base)):
                yield why

    def preview(self, rng: random.Random, units: Sequence[str]) -> str:  # noqa: ARG002  # only the run knows the entries
        """Say what is done to what."""
        match self.corrupt:
            case Corruption(put=Key() as key):
                return f"put {key.key} into {key.bucket}"
            case Corruption(publish=Published() as sent):
                return f"publish {sent.count} to {sent.subject}"
            case Corruption(duplicate=Duplicates() as again_):
                return f"{again_.count} of stream {again_.stream} once more"
            case Corruption(entries=Keys() as keys):
                what = "change" if self.corrupt.change else "delete"
                return f"{what} {keys.pick or 'all'} of the entries {keys.key} of {keys.bucket}"
        return "a command"

    # --- aim ---------------------------------------------------------------------------------------------------------

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose what is damaged, and how: all that inject and undo need goes into the intent."""
        mark, what = {"mark": secrets.token_hex(4)}, self.corrupt
        if what.command:
            return Aim(())
        try:
            handle = await self.handle(world)
            if what.publish:
                return Aim((), {**mark, "messages": await self._messages(world, handle, what.publish, rng)})
            if what.duplicate:
                return Aim((), {**mark, "seqs": await self._seqs(world, handle, what.duplicate, rng)})
            entries = await self._entries(world, handle, rng)
        except (BrokerError, ValueError) as error:
            raise CannotAim(str(error)) from error
        if sum(len(one["old"] or "") + len(one["new"] or "") for one in entries) > MOST_BYTES:
            raise CannotAim(f"its entries are more than {MOST_BYTES} bytes, all told: pick fewer of them")
        return Aim((), {**mark, "entries": entries})

    async def _entries(self, world: World, handle: Handle, rng: random.Random) -> list[Entry]:
        """Return the entries, each with the revision to write over, its old value and its new one (none: deleted)."""
        of = self.corrupt.entries
        assert of is not None  # noqa: S101  # the callers have looked
        bucket, prefix = of.bucket, f"$KV.{of.bucket}."
        await self.info(world, handle, f"STREAM.INFO.KV_{bucket}", f"bucket {bucket}")
        if isinstance(of, Key):
            last = await entry(handle, bucket, of.key)
            if last and _damaged(last):
                raise CannotAim(f"entry {of.key} of {bucket} is damaged by {last.headers[MARK]} just now")
            if last and last.is_value:
                raise CannotAim(f"entry {of.key} of {bucket} is there already: use change for it")
            return [_entry(of.key, last.seq if last else 0, None, of.value.encode())]
        subjects = await stream_subjects(handle, f"KV_{bucket}", f"{prefix}>")
        names = sorted(key for one in subjects if re.fullmatch(of.key, key := one.removeprefix(prefix)))
        size = of.pick.size(len(names)) if of.pick and names else len(names)
        if size > MOST_ENTRIES:
            raise CannotAim(f"{size} entries of {bucket} are more than {MOST_ENTRIES}: pick fewer of them")
        found: dict[str, Stored] = {}
        others = 0
        for key in sorted(names, key=lambda _: rng.random()) if of.pick else names:
            if len(found) < size and (last := await entry(handle, bucket, key)):
                others += _damaged(last)
                if last.is_value and not _damaged(last):
                    found[key] = last
        if not found:
            why = f", but {others} that other episodes have damaged" if others else ""
            raise CannotAim(f"bucket {bucket} has no entry just now that matches {of.key}{why}")
        return [
            _entry(key, last.seq, last.data, self._new(last.data, rng)) for key, last in sorted(found.items())
        ]

    def _new(self, old: bytes, rng: random.Random) -> bytes | None:
        if (change := self.corrupt.change) is None:
            return None
        return damaged(old, rng) if change.value is None else change.value.encode()

    async def _messages(self, world: World, handle: Handle, of: Published, rng: random.Random) -> list[str]:
        try:
            streams = await pages(
                handle, "STREAM.NAMES", {"subject": of.subject}, lambda answer: answer.get("streams") or ()
            )
        except BrokerError:
            streams = set()  # without JetStream nobody stores it
        for stream in sorted(streams):
            await self.info(world, handle, f"STREAM.INFO.{stream}", f"stream {stream}")
        payloads = (noise(rng) if of.value is None else of.value.encode() for _ in range(of.count))
        return [_text(payload) for payload in payloads]

    async def _seqs(self, world: World, handle: Handle, of: Duplicates, rng: random.Random) -> list[int]:
        info = await self.info(world, handle, f"STREAM.INFO.{of.stream}", f"stream {of.stream}")
        state, seqs = info["state"], set[int]()
        for _ in range(of.count if state["messages"] else 0):
            start = state["first_seq"] + int(rng.random() * (state["last_seq"] - state["first_seq"] + 1))
            for since in (
                start,
                state["first_seq"],
            ):  # from the beginning again where none follows that matches
                which = {"seq": since, "next_by_subj": of.filter or ">"}
                if found := await message(handle, of.stream, which):
                    seqs.add(found.seq)
                    break
        if not seqs:
            raise CannotAim(f"stream {of.stream} has no message just now that could come once more")
        return sorted(seqs)

    # --- inject and undo ---------------------------------------------------------------------------------------------

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Do the damage; entries that somebody has changed meanwhile are left alone."""
        for_good = FOR_GOOD if self.takes_back == NONE else ""
        what, headers = self.corrupt, {MARK: _mark(intent) + for_good}
        if what.command:
            await run(what.command, world, intent, self.inject_timeout)
            return
        handle = await self.handle(world)
        if what.publish:
            for payload in intent.undo["messages"]:
                await handle.nc.publish(what.publish.subject, b64decode(payload), headers=headers)
            await handle.canary(CANARY)  # they are out once this is back
        elif what.duplicate:
            for seq in intent.undo["seqs"]:
                if found := await message(handle, what.duplicate.stream, {"seq": seq}):
                    again_ = {**found.repeatable(), **headers}
                    await handle.nc.publish(found.subject, found.data, headers=again_)
            await handle.canary(CANARY)
        elif what.entries:
            await self._damage(handle, what.entries.bucket, intent, headers)

    async def _damage(
        self, handle: Handle, bucket: str, intent: FaultIntent, headers: Mapping[str, str]
    ) -> None:
        changed = 0
        for one in intent.undo["entries"]:
            try:
                if one["new"] is None:
                    await delete(handle, bucket, one["key"], one["revision"], headers)
                else:
                    await put(handle, bucket, one["key"], b64decode(one["new"]), one["revision"], headers)
            except ChangedError:
                changed += 1
        if changed == len(intent.undo["entries"]):
            raise BrokerError(
                f"somebody else has just changed all of these entries of {bucket}: nothing was done"
            )

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Put old values back where nobody has written since, or run the command."""
        if isinstance(self.takes_back, tuple):
            try:
                await run(self.takes_back, world, intent, self.undo_timeout)
            except CommandFailed as error:
                raise UndoError(again(error, self.takes_back, intent)) from error
        elif self.corrupt.entries and self.undo_needs_broker:
            if world.recovering and world.servers_ended:
                return
            bucket = self.corrupt.entries.bucket
            try:
                handle = await self.handle(world)
                for one in intent.undo["entries"]:
                    await _put_back(handle, bucket, one, _mark(intent))
            except BrokerError as error:
                keys = ", ".join(one["key"] for one in intent.undo["entries"])
                raise UndoError(
                    f"entries of bucket {bucket} may still be damaged ({keys}): {error}; run `soakd recover` when the broker answers, "
                    "or write back what the intent in the journal has as old, in base64"
                ) from error


async def _put_back(handle: Handle, bucket: str, one: Entry, mark: str) -> None:
    last = await entry(handle, bucket, one["key"])
    if last is None or last.headers.get(MARK) != mark:
        return
    try:
        if one["old"] is None:
            await purge(handle, bucket, one["key"], last.seq)
        else:
            await put(handle, bucket, one["key"], b64decode(one["old"]), last.seq)
    except ChangedError:
        return  # the last word is somebody else's by now
    except ApiError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise


def _damaged(last: Stored) -> bool:
    """Say whether an entry is what an episode has made of it that will put it back: its value is not one to keep as the old one."""
    return MARK in last.headers and not last.headers[MARK].endswith(FOR_GOOD)


def _mark(intent: FaultIntent) -> str:
    return f"{intent.episode} {intent.undo['mark']}" if "mark" in intent.undo else intent.episode


def _entry(key: str, revision: int, old: bytes | None, new: bytes | None) -> Entry:
    return {
        "key": key,
        "revision": revision,
        "old": None if old is None else _text(old),
        "new": None if new is None else _text(new),
    }


def _text(data: bytes) -> str:
    return b64encode(data).decode()
