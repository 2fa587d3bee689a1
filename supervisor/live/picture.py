"""What the live view shows, as JSON: the daemon serves it under `/status`, and a viewer without a run makes it itself.

It is bounded whatever the broker holds: a wish says which rows are wanted, and the totals are there beside them. Ages are seconds;
None is unknown.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from supervisor.broker.health.findings import Diagnosis, Severity

ROWS: Final = 500
"""The most rows of one kind that one answer has; a high terminal has 100."""
FINDINGS: Final = 5

Sort = Literal["change", "name", "messages"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Wish(_Frozen):
    """Which rows are wanted: the query of `/status`."""

    match: str = Field("", max_length=200)
    """What names must contain; upper and lower case are alike."""
    sort: Sort = "change"
    streams_from: int = Field(0, ge=0)
    entries_from: int = Field(0, ge=0)
    rows: int = Field(200, ge=0, le=ROWS)


class ConsumersPicture(_Frozen):
    """The consumers of a stream."""

    count: int
    idle: int = 0
    pending: int = 0
    ack_pending: int = 0
    redelivered: int = 0


class StreamPicture(_Frozen):
    """One stream. Where it has not been described yet, all but the name is unknown."""

    name: str
    known: bool = True
    deleted: bool = False
    """It was deleted a moment ago."""
    doubted: bool = False
    """Missing from the last list, but not known to be deleted."""
    quorum: bool = True
    messages: int | None = None
    bytes: int | None = None
    first: int | None = None
    last: int | None = None
    leader: str = ""
    replicas: int = 1
    current: int = 1
    lag: int = 0
    consumers: ConsumersPicture | None = None
    changed: float | None = None
    """How long ago it changed; None: not since we look."""


class EntryPicture(_Frozen):
    """One entry of a bucket."""

    bucket: str
    key: str
    revision: int
    operation: Literal["put", "delete", "purge"] = "put"
    changed: float | None = None


class BucketPicture(_Frozen):
    """One bucket as a whole."""

    name: str
    live: int
    """Keys with a value."""
    complete: bool
    why: str = ""


class HealthPicture(_Frozen):
    """The broker's health in a few words."""

    state: str
    headline: str
    findings: tuple[str, ...] = ()
    """Worst first."""


class BrokerPicture(_Frozen):
    """The broker, as far as somebody wished to see it."""

    seen: float | None = None
    """How long ago the names of all streams were read."""
    why: str = ""
    """Why not everything is known; empty if it is."""
    meta_leader: str = ""
    total: int = 0
    """Streams on the broker."""
    unknown: int = 0
    """Those of them that nobody has described yet."""
    messages: int = 0
    bytes: int = 0
    matching: int = 0
    """Streams that match the wish, of which `streams` has some."""
    streams: tuple[StreamPicture, ...] = ()
    buckets: tuple[BucketPicture, ...] = ()
    unwatched: int = 0
    """Buckets whose entries nobody follows."""
    matching_entries: int = 0
    entries: tuple[EntryPicture, ...] = ()
    health: HealthPicture | None = None
    """None: nobody has looked yet."""


class UnitPicture(_Frozen):
    """One unit of a run."""

    state: str
    since: float = Field(0.0, alias="for")
    crashes: int = 0
    restarts: int = 0
    last_crash: str | None = None


class EpisodePicture(_Frozen):
    """An open episode."""

    episode: str
    stage: str
    targets: tuple[str, ...] = ()
    since: float = Field(0.0, alias="for")


class EpisodesPicture(_Frozen):
    """The episodes of a run."""

    open: tuple[EpisodePicture, ...] = ()
    closed: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Outcomes by fault."""


class LoadPicture(_Frozen):
    """One load of a run."""

    scheduled: int = 0
    ok_share: float | None = None
    rate: float = 0.0


class RunPicture(_Frozen):
    """What `/status` says of a run, as far as it is shown."""

    phase: str
    run: str | None = None
    soak: str | None = None
    seed: int | None = None
    soaking_for: float | None = None
    time_left: float | None = None
    verdict: str | None = None
    steady: bool | None = None
    paused: bool = False
    failing: tuple[str, ...] = ()
    units: dict[str, UnitPicture]
    episodes: EpisodesPicture = EpisodesPicture()
    loads: dict[str, LoadPicture] = Field(default_factory=dict)
    broker: BrokerPicture | None = None
    """None: the soak has no broker, or it is not watched at present."""


class Scene(_Frozen):
    """All that is on the screen at one moment."""

    title: str
    """What is watched."""
    run: RunPicture | None = None
    broker: BrokerPicture | None = None
    trouble: str = ""
    """Why what is shown is not of now."""


def health_picture(diagnosis: Diagnosis | None) -> HealthPicture | None:
    """Return a diagnosis in a few words."""
    if diagnosis is None:
        return None
    weighty = [finding for finding in diagnosis.findings if finding.severity is not Severity.NOTE]
    return HealthPicture(
        state=diagnosis.health.value,
        headline=diagnosis.headline,
        findings=tuple(finding.what for finding in weighty[:FINDINGS]),
    )
