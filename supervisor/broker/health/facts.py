"""What was seen of a cluster at one moment: frozen facts, each with its source, and the reason where a source said nothing.

Facts are data and nothing else: `examine` collects them, `diagnosis` judges them, and tests keep recorded ones as JSON. Sizes are
bytes, times seconds.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Fact(BaseModel):
    """A part of what was seen."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Check(Fact):
    """An answer of `/healthz`."""

    status: int
    """As HTTP has it: 200 is well."""
    error: str = ""


class Peer(Fact):
    """A member of the meta group, as another member sees it. Only the leader knows all of them: followers hear the leader alone."""

    name: str
    current: bool = False
    offline: bool = False
    """It said goodbye. One that was killed or paused is only silent."""
    silent: float = 0.0
    """Seconds since it was last heard; 0 if it never was."""
    lag: int = 0
    """Entries of the log that it has not got yet."""


class Meta(Fact):
    """The meta group, which decides about all streams and consumers, as one of its members sees it."""

    leader: str = ""
    """Empty while there is none that this member knows."""
    size: int
    peers: tuple[Peer, ...] = ()

    @property
    def needed(self) -> int:
        """How many members make a majority."""
        return self.size // 2 + 1


class Store(Fact):
    """Where a server keeps its streams, and how much."""

    directory: str = ""
    used: int = 0
    limit: int = 0
    memory_used: int = 0
    memory_limit: int = 0
    disk_free: int | None = None
    """What the file system of `directory` has left for others than root; None where that is not a directory of this host."""
    disk_size: int | None = None


class Consumers(Fact):
    """The consumers that were counted one by one."""

    ephemeral: int = 0
    stale: int = 0
    """Ephemeral ones that nobody has listened to for a while: left behind."""
    stream: str = ""
    """The stream with most of the stale ones."""


class Server(Fact):
    """A nats-server, as it describes itself over its monitoring port or in the system account."""

    id: str
    name: str
    version: str
    uptime: str = ""
    """As the server writes it, such as 3h12m4s."""
    clients: int = 0
    """Client connections at present."""
    jetstream: bool = False
    meta: Meta | None = None
    """None for a server that stands alone, or has no JetStream."""
    store: Store | None = None
    streams: int = 0
    consumers: int = 0
    """Replicas on this server, of consumers of all accounts."""
    counted: Consumers | None = None
    """Of the consumers that this server leads. None: there were too few to be worth a look, or the look failed (see `uncounted`)."""
    uncounted: str = ""
    checks: dict[str, Check] = Field(default_factory=dict)
    """By variant of `/healthz`: plain, js-enabled-only, js-server-only. One that did not answer is missing."""


class Greeting(Fact):
    """What a server says to anybody who connects."""

    address: str
    """host:port, as in the soak file."""
    outcome: Literal["greets", "refuses", "mute", "unreachable", "tls"]
    """`mute`: somebody accepts the connection and then says nothing, as a paused server does. `tls`: it speaks TLS first, so it was
    not asked for more."""
    took: float = 0.0
    detail: str = ""
    id: str = ""
    name: str = ""
    version: str = ""
    jetstream: bool = False
    cluster: str = ""


class Monitored(Fact):
    """The look at a monitoring port of the soak file."""

    unit: str
    url: str
    called: str = ""
    """The server's name according to the soak file."""
    took: float = 0.0
    server: Server | None = None
    error: str = ""
    """Why there is no server."""


class System(Fact):
    """The look through the system account, which every server answers."""

    took: float = 0.0
    servers: tuple[Server, ...] = ()
    error: str = ""


class Link(Fact):
    """The default connection."""

    server: str = ""
    """Name of the server it is connected to."""
    round_trip: float | None = None
    """Of a canary; None if it was not answered."""
    error: str = ""
    lame_duck: bool = False
    """That server has announced that it is about to leave."""


class Limits(Fact):
    """What an account may use; -1 is without limit."""

    storage: int = -1
    memory: int = -1
    streams: int = -1
    consumers: int = -1


class Account(Fact):
    """What the account of the default connection uses, in all or in one tier."""

    tier: str = ""
    storage: int = 0
    memory: int = 0
    streams: int = 0
    consumers: int = 0
    limits: Limits = Field(default_factory=Limits)


class Api(Fact):
    """The answer to `$JS.API.INFO`."""

    outcome: Literal["answered", "error", "nobody", "silent", "unasked"]
    """`nobody`: no server listens there ("no responders"); `silent`: somebody listens, but did not answer in time; `unasked`: there
    is no connection."""
    took: float = 0.0
    code: int = 0
    """The error, such as 10008."""
    detail: str = ""
    accounts: tuple[Account, ...] = ()


class Facts(Fact):
    """Everything that was seen at one moment."""

    at: float
    """Wall seconds."""
    greetings: tuple[Greeting, ...] = ()
    """One for each server of the soak file."""
    monitored: tuple[Monitored, ...] = ()
    """One for each node of the soak file with a monitoring port."""
    system: System | None = None
    """None: the soak file has no system connection."""
    link: Link
    api: Api
