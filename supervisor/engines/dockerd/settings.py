"""What the soak file says about the containers of an engine: which are units, where they are, and how they are treated."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from supervisor.engines.dockerd.api import Api, Endpoint, Tls, connect
from supervisor.engines.dockerd.names import Which
from supervisor.engines.readiness import Ready
from supervisor.kinds import Name, Strict
from supervisor.values import Duration


class OwnPolicy(StrEnum):
    """What is done about a container that Docker itself would restart."""

    ADOPT = "adopt"
    SUSPEND = "suspend"
    REFUSE = "refuse"


class Others(StrEnum):
    """What is done about a unit that somebody else stopped."""

    RESPECT = "respect"
    HEAL = "heal"


class Unhealthy(StrEnum):
    """What is done about a container whose own health check fails."""

    IGNORE = "ignore"
    RESTART = "restart"


class TlsFiles(Strict):
    """Files for an engine behind TCP, seen from the soak file's folder."""

    ca: str | None = Field(
        None, description="Who signs the engine's certificate; left out: whom this machine trusts."
    )
    cert: str | None = Field(None, description="Our certificate.")
    key: str | None = Field(None, description="Our private key.")

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together: give both or none")
        return self


class Containers(Strict):
    """Which containers are units, where they are, and how they are treated."""

    project: str | None = Field(None, min_length=1, description="All containers of this compose project.")
    names: tuple[Name, ...] = Field((), description="The containers of these names.")
    label: Annotated[str, Field(pattern=r"^[^=\s]+=.*$")] | None = Field(
        None, description="All containers with this label, key=value."
    )
    host: str | None = Field(
        None,
        pattern=r"^(unix|tcp|https?)://",
        description="Where the engine is; left out: DOCKER_HOST, or else the local socket.",
    )
    tls: TlsFiles | None = Field(
        None,
        description="For an engine behind TCP; left out: what DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say.",
    )
    own_policy: OwnPolicy = Field(
        OwnPolicy.REFUSE,
        description="A unit with a restart policy of its own: Docker restarts it and soakd keeps the evidence (adopt), its policy "
        "is taken off during the run (suspend), or the soak is refused.",
    )
    outside: Others = Field(
        Others.RESPECT,
        description="A unit that somebody stops by hand stays down until he starts it (respect), or is kept up like any other (heal).",
    )
    unhealthy: Unhealthy = Field(
        Unhealthy.IGNORE,
        description="A unit whose own health check fails for good is left alone, or restarted as if it had crashed.",
    )
    start: bool = Field(
        False, description="Start what is down at the beginning; it is stopped again at the end."
    )
    stop_timeout: Duration | None = Field(
        None,
        gt=0,
        description="How long units may take to stop; left out: what the container says, or else 10s.",
    )
    ready: dict[Name, Ready] = Field(
        default_factory=dict,
        description="What shows that a unit is ready, by its name. Left out: its own health check, or else ready at once.",
    )
    timeout: Duration = Field(10.0, gt=0, description="How long the engine may take to answer.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("project", "names", "label") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"expected one of project, names or label, found {' and '.join(given) or 'none'}"
            )
        return self

    @property
    def which(self) -> Which:
        """Which containers are meant."""
        return Which(self.project, self.names, self.label)

    def connect(self, base: Path) -> AbstractAsyncContextManager[Api]:
        """Open the engine; EngineError if it does not answer."""
        tls = None
        if self.tls:
            files = (self.tls.ca, self.tls.cert, self.tls.key)
            tls = Tls(*(base / file if file else None for file in files))
        return connect(Endpoint.of(self.host, tls), self.timeout)
