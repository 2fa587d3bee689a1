"""The soak file's `broker:` section: where the servers are, who we are to them, and what is watched there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, model_validator

from supervisor.kinds import Strict
from supervisor.values import Duration

DEFAULT: Final = "default"
"""The name of the connection that the `broker:` section itself describes."""
SYSTEM: Final = "system"

_EXPECTED: Final = "expected host:port, nats://host:port or tls://host:port"
_SUBJECT_TOKENS: Final = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
_CREDENTIALS: Final = ("user", "password", "token", "creds", "nkey")
_SHARED: Final = ("servers", "tls", "domain", "inbox_prefix")


def _parse_server(text: str) -> str:
    """Return `nats://host:port` for a server written as host, host:port or URL; ValueError says what is wrong with it."""
    try:
        url = urlsplit(text if "://" in text else f"nats://{text}")
    except ValueError:  # its text may repeat a password
        raise ValueError(_EXPECTED) from None
    if url.scheme not in ("nats", "tls"):
        raise ValueError(f"{_EXPECTED} (websockets are not supported)")
    if "@" in url.netloc:
        raise ValueError(
            "credentials do not belong in a server's URL: the client would not use them for the other servers, listed "
            "or discovered, and would be refused there for good. Write user and password (or token) beside servers"
        )
    try:
        port = url.port or 4222
    except ValueError:
        raise ValueError("the port must be a number from 1 to 65535") from None
    if not url.hostname or re.search(r"\s", url.netloc) or url.path.strip("/") or url.query or url.fragment:
        raise ValueError(_EXPECTED)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}:{port}"


def _seen_from_soak_file(path: Path, info: ValidationInfo) -> Path:
    context = info.context if isinstance(info.context, dict) else {}
    return Path(context.get("base", ".")) / path.expanduser()


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _check_tokens(text: str) -> str:
    if not _SUBJECT_TOKENS.fullmatch(text):
        raise ValueError("expected subject tokens such as _INBOX_soakd: no spaces, wildcards or empty tokens")
    return text


Server = Annotated[str, AfterValidator(_parse_server)]
_Written = str | Annotated[list[str], Field(min_length=1)]
Servers = Annotated[
    tuple[Server, ...],
    BeforeValidator(_one_or_more, json_schema_input_type=_Written),
    Field(min_length=1),  # outside: pydantic's own check of a tuple counts only the items that are right
]
FilePath = Annotated[Path, AfterValidator(_seen_from_soak_file)]
"""A file, its path seen from the soak file's folder. It is read when a connection is made, and again for each new one."""
Tokens = Annotated[str, AfterValidator(_check_tokens)]


class Tls(Strict):
    """How to speak TLS. Without `ca` the system's authorities are trusted."""

    ca: FilePath | None = Field(None, description="PEM file of the authorities to trust.")
    cert: FilePath | None = Field(None, description="PEM file of our own certificate, for mutual TLS.")
    key: FilePath | None = Field(None, description="PEM file of its private key.")
    hostname: str | None = Field(
        None, description="Name expected in the servers' certificates, if not their host."
    )
    handshake_first: bool = Field(
        False, description="TLS before the server's INFO, as its handshake_first asks for."
    )

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together: give both or neither")
        return self


class Identity(Strict):
    """Who a connection is. At most one way of proving it: user and password, token, creds or nkey."""

    user: str | None = None
    password: SecretStr | None = None
    token: SecretStr | None = None
    creds: FilePath | None = Field(None, description="Credentials file with a user's JWT and seed.")
    nkey: FilePath | None = Field(None, description="File with a user's NKey seed.")
    tls: Tls | None = None
    domain: Tokens | None = Field(None, description="JetStream domain.")
    inbox_prefix: Tokens | None = Field(None, description="Prefix of reply subjects; _INBOX unless given.")

    @model_validator(mode="after")
    def _one_proof(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together: give both or neither")
        given = [name for name in ("user", "token", "creds", "nkey") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"expected one of user, token, creds or nkey, found {' and '.join(given)}")
        return self


class Named(Identity):
    """A further connection. What it leaves out is as in the `broker:` section; credentials are taken over whole or not at all."""

    servers: Servers | None = None


class Node(Strict):
    """A server that is a unit of this soak."""

    name: str | None = Field(
        None, description="The server's own name (`server_name`), if it is not the unit's.", min_length=1
    )
    monitor: str | None = Field(
        None, description="URL of the server's monitoring port.", pattern="^https?://"
    )


class Monitor(Strict):
    """What is watched on the broker while a soak runs."""

    every: Duration = Field(0.5, gt=0, description="Time from one look to the next.")
    buckets: tuple[Tokens, ...] = Field((), description="Key-value buckets whose entries are watched.")


class Options(Identity):
    """All that one connection needs to know."""

    servers: Servers


class Broker(Identity):
    """The NATS cluster under test, and the connections to it."""

    servers: Servers = Field(description="host:port or nats://host:port; no credentials here.")
    system: Named | None = Field(None, description="The connection of the system account.")
    connections: dict[str, Named] = Field(
        default_factory=dict, description="Further connections by name; a load chooses one with `as: name`."
    )
    nodes: dict[str, Node] = Field(default_factory=dict, description="Servers that are units, by unit.")
    reach: Duration = Field(
        30.0, gt=0, description="How long the broker may take to its first answer at the start."
    )
    monitor: Monitor = Field(default_factory=lambda: Monitor.model_validate({}))

    @model_validator(mode="after")
    def _names(self) -> Self:
        if taken := [name for name in (DEFAULT, SYSTEM) if name in self.connections]:
            where = "the broker section itself" if taken == [DEFAULT] else "its own key, system"
            raise ValueError(f"connections: {taken[0]} is described by {where}: give this one another name")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all connections."""
        return (DEFAULT, *((SYSTEM,) if self.system else ()), *self.connections)

    def server_of(self, node: str) -> str:
        """Return the name of the server that a unit in `nodes` is."""
        own = self.nodes[node].name if node in self.nodes else None
        return own or node.rpartition("/")[2]

    def node_of(self, server: str) -> str | None:
        """Return the unit, as written in `nodes`, whose server has this name; None if there is none."""
        return next((node for node in self.nodes if self.server_of(node) == server), None)

    def environment(self, servers: Sequence[str] = ()) -> dict[str, str]:
        """Return what units and commands are told: how to reach the broker, at `servers` where these are given."""
        environment = {"SOAKD_NATS_URL": ",".join(servers or self.servers)}
        if self.user is not None:
            environment["SOAKD_NATS_USER"] = self.user
        if self.password is not None:
            environment["SOAKD_NATS_PASSWORD"] = self.password.get_secret_value()
        return environment

    def options(self, name: str = DEFAULT) -> Options:
        """Return what a named connection needs to know; KeyError for a name that is not in `names`."""
        own = {key: getattr(self, key) for key in (*_SHARED, *_CREDENTIALS)}
        if name == DEFAULT:
            return Options.model_construct(**own)
        named = self.system if name == SYSTEM else self.connections[name]
        if named is None:
            raise KeyError(name)
        theirs: dict[str, Any] = {key: getattr(named, key) for key in (*_SHARED, *_CREDENTIALS)}
        if any(theirs[key] is not None for key in _CREDENTIALS):
            own |= dict.fromkeys(_CREDENTIALS)
        return Options.model_construct(
            **own | {key: value for key, value in theirs.items() if value is not None}
        )
