"""Every way of proving who we are, against a server that insists on it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import nats.errors
import pytest
from nats_identities import Operator, make_certificates, user_key
from nats_servers import NatsServer, Start, until

from supervisor.broker.api import NobodyError, call
from supervisor.broker.connection import BrokerError, Connections, Handle, open_connections
from supervisor.broker.options import Broker
from supervisor.journal.events import BrokerChanged
from supervisor.journal.writer import JournalWriter

pytestmark = pytest.mark.usefixtures("nothing_leaks")

WITHIN = 20.0
"""Seconds for a connection on a busy machine."""


@asynccontextmanager
async def connected(server: NatsServer, journal: JournalWriter, **broker: object) -> AsyncIterator[Handle]:
    model = Broker.model_validate({"servers": server.address, **broker})
    async with open_connections(model, journal) as connections:
        handle = await connections.handle()
        await handle.wait_connected(WITHIN)
        yield handle


async def refused(server: NatsServer, journal: JournalWriter, because: str, **broker: object) -> None:
    """Wait until a connection says that it is refused, and why."""
    model = Broker.model_validate({"servers": server.address, **broker})
    async with open_connections(model, journal) as connections:
        await refuses(await connections.handle(), because)


async def refuses(handle: Handle, because: str) -> None:
    """Wait for the reason: a server that hangs up may do so before its -ERR was read; then the next attempt tells."""
    with anyio.fail_after(WITHIN):
        while True:
            with pytest.raises(BrokerError) as caught:
                await handle.wait_connected(0.02)
            if re.search(because, str(caught.value)):
                return


async def test_user_and_password(start: Start, journal: JournalWriter) -> None:
    server = await start("authorization { user: soak, password: secret }")
    async with connected(server, journal, user="soak", password="secret") as handle:
        await handle.canary(WITHIN)
    await refused(server, journal, "Authorization Violation", user="soak", password="guess")
    await refused(server, journal, "Authorization Violation")


async def test_token(start: Start, journal: JournalWriter) -> None:
    server = await start("authorization { token: secret }")
    async with connected(server, journal, token="secret") as handle:
        await handle.canary(WITHIN)
    await refused(server, journal, "Authorization Violation", token="guess")


async def test_credentials_on_every_server_of_a_cluster(
    cluster: list[NatsServer], journal: JournalWriter
) -> None:
    """Those of a URL would be used for the listed server alone, and the client refused by the discovered ones for good."""
    for server in cluster:
        await server.reload(server.config + "authorization { user: soak, password: secret }")
    async with connected(cluster[0], journal, user="soak", password="secret") as handle:
        assert handle.nc.server == cluster[0].address
        await until(lambda: len(handle.nc.discovered_servers) == 2)
        await cluster[0].kill()
        await until(
            lambda: handle.connected and handle.nc.server in {cluster[1].address, cluster[2].address}, WITHIN
        )


async def test_creds_file(start: Start, journal: JournalWriter, tmp_path: Path) -> None:
    operator = Operator()
    server = await start(operator.config)
    creds = tmp_path / "soak.creds"
    creds.write_text(operator.creds())
    async with connected(server, journal, creds=str(creds)) as handle:
        await handle.canary(WITHIN)
        await (await handle.jetstream()).account_info()
    creds.write_text(Operator().creds())
    await refused(server, journal, "Authorization Violation", creds=str(creds))


async def test_creds_that_expire_and_are_renewed(
    start: Start, journal: JournalWriter, tmp_path: Path, changes: list[BrokerChanged]
) -> None:
    operator = Operator()
    server = await start(operator.config)
    creds = tmp_path / "soak.creds"
    creds.write_text(operator.creds(seconds=2))
    broker = Broker.model_validate({"servers": server.address, "creds": str(creds)})
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle()
        while not handle.connected:  # on a busy machine they may expire before they are used
            creds.write_text(operator.creds(seconds=2))
            with suppress(BrokerError):
                await handle.wait_connected(0.5)
        await until(lambda: {"disconnected", "rejected"} <= {change.state for change in changes})
        creds.write_text(operator.creds())
        await handle.wait_connected(WITHIN)


async def test_files_that_cannot_be_used(server: NatsServer, journal: JournalWriter, tmp_path: Path) -> None:
    file = tmp_path / "file"
    await refused(server, journal, f"cannot read creds {file}: No such file", creds=str(file))
    file.write_text("nonsense")
    await refused(server, journal, f"cannot use creds {file}: expected a user's JWT", creds=str(file))
    await refused(server, journal, f"cannot use nkey {file}: expected a user's seed", nkey=str(file))
    await refused(server, journal, f"cannot use tls {file}: expected PEM files", tls={"ca": str(file)})


async def test_nkey(start: Start, journal: JournalWriter, tmp_path: Path) -> None:
    user, other = user_key(), user_key()
    server = await start(f"authorization {{ users: [{{ nkey: {user.public} }}] }}")
    seed = tmp_path / "seed"
    seed.write_text(user.seed + "\n")
    async with connected(server, journal, nkey=str(seed)) as handle:
        await handle.canary(WITHIN)
    seed.write_text(other.seed)
    await refused(server, journal, "Authorization Violation", nkey=str(seed))


async def test_mutual_tls(start: Start, journal: JournalWriter, tmp_path: Path) -> None:
    files = await anyio.to_thread.run_sync(make_certificates, tmp_path / "pem")
    server = await start(
        f'tls {{ cert_file: "{files.server}", key_file: "{files.server_key}", ca_file: "{files.ca}", verify: true }}'
    )
    ours = {"ca": str(files.ca), "cert": str(files.client), "key": str(files.client_key)}
    async with connected(server, journal, tls=ours) as handle:
        await handle.canary(WITHIN)
        await server.kill()
        await until(lambda: not handle.connected)
        await server.start()
        await handle.wait_connected(WITHIN)
        server.pause()
        await until(lambda: not handle.connected)
        server.resume()
        await handle.wait_connected(WITHIN)
        server.pause()  # a TLS connection would wait half a minute for its peer to agree to the end
    server.resume()
    anything = "(?i)certificate required|in the handshake: wrong credentials or TLS settings"
    await refused(server, journal, anything, tls={"ca": str(files.ca)})
    await refused(server, journal, "certificate verify failed", tls={**ours, "ca": None})


async def test_tls_before_anything_else(start: Start, journal: JournalWriter, tmp_path: Path) -> None:
    files = await anyio.to_thread.run_sync(make_certificates, tmp_path / "pem")
    server = await start(
        f'tls {{ cert_file: "{files.server}", key_file: "{files.server_key}", handshake_first: true }}'
    )
    async with connected(server, journal, tls={"ca": str(files.ca), "handshake_first": True}) as handle:
        await handle.canary(WITHIN)


async def test_jetstream_domain(start: Start, journal: JournalWriter) -> None:
    server = await start(jetstream="domain: hub")
    async with connected(server, journal, domain="hub") as handle:
        js = await handle.jetstream()
        await js.add_stream(name="orders", subjects=["orders.>"])
        assert (await call(handle, "STREAM.NAMES"))["streams"] == ["orders"]
    async with connected(server, journal, domain="edge") as handle:
        with pytest.raises(NobodyError, match=r"\$JS.edge.API.INFO: nobody answers"):
            await call(handle, "INFO")


RESTRICTED = """
authorization { users: [{ user: soak, password: secret, permissions: {
    subscribe: "_INBOX_soak.>", publish: { allow: ["rpc.>"] } } }] }
"""


async def test_inbox_prefix_and_a_user_with_few_permissions(start: Start, journal: JournalWriter) -> None:
    """Such a user may not publish to its inbox: the server's refusal answers the first canary, pings follow."""
    server = await start(RESTRICTED)
    who = {"user": "soak", "password": "secret"}
    async with connected(server, journal, inbox_prefix="_INBOX_soak", **who) as handle:
        for _ in range(3):
            await handle.canary(WITHIN)
        assert handle.nc.new_inbox().startswith("_INBOX_soak.")
        with pytest.raises(nats.errors.NoRespondersError):
            await handle.request("rpc.echo")
        await anyio.sleep(0.6)  # past the next canary of its own
        assert handle.connected
    assert server.log.count("Publish Violation") == 1, (
        "one look is enough, the server's log is not ours to fill"
    )
    await refused(server, journal, "let this user subscribe to its inbox, or set inbox_prefix", **who)


ACCOUNTS = """
system_account: SYS
accounts {
  SYS { users: [{ user: sys, password: secret }] }
  APP { jetstream: enabled, users: [{ user: app, password: secret }] }
}
"""


async def test_system_account_and_further_connections(start: Start, journal: JournalWriter) -> None:
    server = await start(ACCOUNTS)
    broker = Broker.model_validate(
        {
            "servers": server.address,
            "user": "app",
            "password": "secret",
            "system": {"user": "sys", "password": "secret"},
            "connections": {"stranger": {"user": "nobody", "password": "secret"}, "twin": {}},
        }
    )

    async def answers(connections: Connections, name: str) -> bytes:
        handle = await connections.handle(name)
        await handle.wait_connected(WITHIN)
        return (await handle.request("$SYS.REQ.SERVER.PING", timeout=WITHIN)).data

    async with open_connections(broker, journal) as connections:
        assert b'"server"' in await answers(connections, "system")
        for name in ("default", "twin"):
            with pytest.raises(nats.errors.NoRespondersError):
                await answers(connections, name)
        await refuses(await connections.handle("stranger"), r"stranger.*Authorization Violation")
