"""What `corrupt` can do: entries and messages, as a soak file names them, and how a value is damaged."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Annotated, Final, Self

from pydantic import Field, field_validator, model_validator

from supervisor.engines.selectors import Pick
from supervisor.faults.command import Argv
from supervisor.faults.nats import Pattern, Token
from supervisor.kinds import Strict

MOST_ENTRIES: Final = 100
"""Entries, or messages, of one episode."""
_OF_NATS: Final = frozenset({"$JS", "$SYS"})
NOISE: Final = 256
"""Bytes that a drawn message has at most."""


class Key(Strict):
    """An entry that is new in a bucket."""

    bucket: Token
    key: Annotated[str, Field(pattern=r"^[-/_=.a-zA-Z0-9]+$")] = Field(description="A key without a value.")
    value: str = Field("", description="Its value.")


class Keys(Strict):
    """Entries of a bucket."""

    bucket: Token
    key: Pattern = Field(description="Regular expression that matches the whole key.")
    pick: Pick | None = Field(None, description="How many of them to draw: one, a number, or a share.")


class Values(Keys):
    """Entries of a bucket, and what they get."""

    value: str | None = Field(
        None, description="Their new value; left out: the old one, damaged in a way that is drawn."
    )


class Published(Strict):
    """Messages that nobody expects."""

    subject: Annotated[str, Field(pattern=r"^[^\s*>]+$")]
    value: str | None = Field(None, description="What they say; left out: noise that is drawn.")
    count: int = Field(1, ge=1, le=MOST_ENTRIES, description="How many.")

    @field_validator("subject")
    @classmethod
    def _of_the_system(cls, subject: str) -> str:
        if subject.split(".", maxsplit=1)[0] in _OF_NATS:
            raise ValueError(
                f"subjects that begin with {subject.split('.', maxsplit=1)[0]} are requests to NATS itself, which could remove what existed before "
                "the run: use purge, delete_consumer, stepdown or another fault, or a command of yours"
            )
        return subject


class Duplicates(Strict):
    """Messages of a stream that come once more."""

    stream: Token
    filter: str | None = Field(None, min_length=1, description="Only those on subjects that match.")
    count: int = Field(1, ge=1, le=MOST_ENTRIES, description="How many are drawn.")


class Corruption(Strict):
    """What is done: one of these."""

    change: Values | None = Field(None, description="Give entries another value.")
    delete: Keys | None = Field(None, description="Delete entries.")
    put: Key | None = Field(None, description="Add an entry.")
    publish: Published | None = Field(
        None, description="Publish messages that are malformed, or not expected."
    )
    duplicate: Duplicates | None = Field(
        None, description="Publish messages of a stream again, past its deduplication."
    )
    command: Argv | None = Field(None, description="A command of yours that does the damage.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            known = ", ".join(type(self).model_fields)
            raise ValueError(f"expected one of {known}, found {' and '.join(given) or 'none'}")
        return self

    @property
    def entries(self) -> Keys | Key | None:
        """The bucket that is meant, and what of it."""
        return self.change or self.delete or self.put


def damaged(value: bytes, rng: random.Random) -> bytes:
    """Return a value that is not what it was: cut off, empty, with bits turned over, or noise."""
    ways: Iterable[Callable[[], bytes]] = (
        lambda: value[: len(value) // 2],
        lambda: b"",
        lambda: bytes(byte ^ (1 << int(rng.random() * 8)) if rng.random() < 0.1 else byte for byte in value),
        lambda: noise(rng),
    )
    tried = list(ways)[int(rng.random() * 4)]()
    return tried if tried != value else value + b"\0"


def noise(rng: random.Random) -> bytes:
    """Return some bytes that are no UTF-8, and so no JSON either."""
    return b"\xff" + bytes(int(rng.random() * 256) for _ in range(int(rng.random() * NOISE)))
