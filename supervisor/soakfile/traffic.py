"""What no load on NATS can see by itself: whether there is a broker, and whether it has the connection that the load takes."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.loads.nats_load import NatsLoad
from supervisor.soakfile.parts import Parts
from supervisor.soakfile.wording import Finding, did_you_mean, either


def check(_: object, parts: Parts) -> Iterator[Finding]:
    """Yield what is wrong with the loads on NATS of a soak file."""
    for name, load in parts.loads.items():
        if not isinstance(load, NatsLoad) or not load.on_nats:
            continue
        if parts.broker is None and "broker" not in parts.bad:
            what = f"{load.key} needs a broker: add the section broker, with its servers"
            yield Finding(("loads", name), what)
        if parts.broker is not None and load.connection not in (known := parts.broker.names):
            hint = did_you_mean(load.connection, known) or f": expected {either(known)}"
            yield Finding(("loads", name, "as"), f'there is no connection "{load.connection}"{hint}')
