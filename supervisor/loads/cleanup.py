"""What a command load removes from the broker between two iterations, and never more than that."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Self, TypeVar

import anyio
import nats.errors
import structlog
from pydantic import Field, StringConstraints, field_validator, model_validator

from supervisor.broker.connection import BrokerError, Handle
from supervisor.broker.housekeeping import Existing, cleanup, snapshot
from supervisor.journal.events import CleanedUp
from supervisor.kinds import Strict
from supervisor.loads.base import LoadContext
from supervisor.values import Duration

log = structlog.get_logger("soakd.loads.cleanup")

ATTEMPT: Final = 10.0
"""Seconds for one attempt: far more than a thousand entries need, and a broker that takes longer is as good as away."""
PREPARE: Final = 60.0
"""Seconds in which a broker that is away at the start of a load may come back."""
LAST: Final = 3.0
"""Seconds for the last cleanup, when the run is ending."""
RETRY: Final = 0.5
_AWAY: Final = (BrokerError, nats.errors.Error, OSError)
"""What a broker that is away, or without a leader, makes its callers raise."""

T = TypeVar("T")
Bucket = Annotated[str, StringConstraints(pattern=r"^[-\w]+$")]


class Cleanup(Strict):
    """Entries and streams that the tests leave behind."""

    buckets: tuple[Bucket, ...] = Field((), description="Key-value buckets whose entries are removed.")
    streams: str | None = Field(None, description="Streams whose whole name matches this regular expression.")
    existing: bool = Field(False, description="Also what was there before the load began.")
    timeout: Duration = Field(30.0, gt=0, description="How long to try while the broker is away.")

    @field_validator("streams")
    @classmethod
    def _compiles(cls, streams: str | None) -> str | None:
        try:
            re.compile(streams or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return streams

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.buckets and not self.streams:
            raise ValueError("expected buckets, streams or both: there is nothing to clean up")
        return self


class Cleaner:
    """Cleans up for one load. A broker that is away is waited for within bounds, and never counts as a failed operation."""

    def __init__(self, settings: Cleanup, context: LoadContext) -> None:
        self._settings, self._context = settings, context
        self._existing: Existing | None = None
        self._prepared = False

    async def prepare(self) -> None:
        """Note what exists, so that it is never removed; BrokerError if the broker stays away for `PREPARE` seconds."""
        if not self._settings.existing:
            self._existing = await self._persist(
                lambda handle: snapshot(handle, self._settings.buckets, self._settings.streams), PREPARE
            )
        self._prepared = True

    async def clean(self, limit: float | None = None) -> None:
        """Remove what there is now, trying for `limit` seconds (the setting's if None), and journal what came of it."""
        if not self._prepared:
            return
        start = time.monotonic()
        settings, load = self._settings, self._context.name
        try:
            cleaned = await self._persist(
                lambda handle: cleanup(
                    handle, buckets=settings.buckets, streams=settings.streams, existing=self._existing
                ),
                settings.timeout if limit is None else limit,
            )
        except BrokerError as error:
            event = CleanedUp(
                load=load, streams=0, entries=0, took=time.monotonic() - start, error=str(error)
            )
            log.warning("could not clean up", load=load, error=str(error))
        else:
            event = CleanedUp(
                load=load, streams=cleaned.streams, entries=cleaned.entries, took=time.monotonic() - start
            )
        self._context.journal.emit(event)

    async def _persist(self, act: Callable[[Handle], Awaitable[T]], limit: float) -> T:
        """Try again while the broker is away; BrokerError with the last reason after `limit` seconds."""
        if self._context.connections is None:
            raise BrokerError(
                f"cannot clean up for load {self._context.name}: the soak file has no broker section"
            )
        reason = "it does not answer"
        with anyio.move_on_after(limit):
            while True:
                try:
                    with anyio.fail_after(ATTEMPT):
                        return await act(await self._context.connections.handle())
                except _AWAY as error:
                    reason = f"{type(error).__name__}: {error}"
                await anyio.sleep(RETRY)
        raise BrokerError(f"cannot clean up for load {self._context.name} within {limit:g}s: {reason}")
