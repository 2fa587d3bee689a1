"""The `broker:` section: what it accepts, what it refuses and how named connections inherit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from supervisor.broker.options import Broker

SERVERS = ["127.0.0.1:4222"]


def problems(**broker: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Broker.model_validate({"servers": SERVERS, **broker})
    return "\n".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in caught.value.errors())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("nats1", "nats://nats1:4222"),
        ("nats1:4333", "nats://nats1:4333"),
        ("nats://nats1", "nats://nats1:4222"),
        ("nats://nats1:4333/", "nats://nats1:4333"),
        ("tls://nats.example.org:443", "tls://nats.example.org:443"),
        ("[::1]:4222", "nats://[::1]:4222"),
    ],
)
def test_servers(written: str, meant: str) -> None:
    assert Broker.model_validate({"servers": written}).servers == (meant,)
    assert Broker.model_validate({"servers": [written, "other"]}).servers == (meant, "nats://other:4222")


@pytest.mark.parametrize(
    ("written", "because"),
    [
        ("nats://admin:hunter2@nats1:4222", "credentials do not belong in a server's URL"),
        ("admin@nats1", "credentials do not belong in a server's URL"),
        ("ws://nats1:80", "websockets are not supported"),
        ("nats1:port", "port must be a number"),
        ("nats1:99999", "port must be a number"),
        ("nats://nats1/path", "expected host:port"),
        ("nats://:4222", "expected host:port"),
        ("[::1:4222", "expected host:port"),
        ("nats 1", "expected host:port"),
        ("", "expected host:port"),
    ],
)
def test_servers_that_are_none(written: str, because: str) -> None:
    text = problems(servers=[written])
    assert because in text
    assert "hunter2" not in text


def test_a_refused_password_is_not_shown() -> None:
    with pytest.raises(ValidationError) as caught:
        Broker.model_validate({"servers": "nats://admin:hunter2@nats1"})
    assert "hunter2" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_server_or_a_problem(text: str) -> None:
    try:
        servers = Broker.model_validate({"servers": text}).servers
    except ValidationError:
        return
    assert Broker.model_validate({"servers": servers}).servers == servers


@pytest.mark.parametrize(
    ("broker", "because"),
    [
        ({"servers": []}, "servers: "),
        ({"user": "soak"}, "user and password belong together"),
        ({"password": "secret"}, "user and password belong together"),
        (
            {"token": "secret", "nkey": "seed"},
            "expected one of user, token, creds or nkey, found token and nkey",
        ),
        ({"system": {"user": "sys"}}, "system: Value error, user and password belong together"),
        ({"tls": {"cert": "cert.pem"}}, "tls: Value error, cert and key belong together"),
        ({"inbox_prefix": "_INBOX.*"}, "expected subject tokens"),
        ({"domain": "a b"}, "expected subject tokens"),
        ({"connections": {"default": {}}}, "default is described by the broker section itself"),
        ({"connections": {"system": {}}}, "system is described by its own key"),
        ({"nodes": {"nats1": {"monitor": "127.0.0.1:8222"}}}, "nodes.nats1.monitor"),
        ({"monitor": {"every": 5}}, "expected a duration"),
        ({"monitor": {"every": "0s"}}, "greater than 0"),
        ({"embedded": {"nodes": 3}}, "embedded: "),
    ],
)
def test_what_is_refused(broker: dict[str, object], because: str) -> None:
    assert because in problems(**broker)


def test_secrets_are_masked() -> None:
    broker = Broker.model_validate({"servers": SERVERS, "user": "soak", "password": "hunter2"})
    assert "hunter2" not in repr(broker)
    assert "hunter2" not in broker.model_dump_json()


def test_named_connections_inherit_everything_but_half_an_identity() -> None:
    broker = Broker.model_validate(
        {
            "servers": SERVERS,
            "user": "app",
            "password": "secret",
            "domain": "hub",
            "inbox_prefix": "_INBOX_app",
            "tls": {"ca": "ca.pem"},
            "system": {"token": "other"},
            "connections": {
                "twin": {},
                "far": {"servers": ["far:4222"], "domain": "edge", "tls": {"ca": "far.pem"}},
            },
        },
        context={"base": Path("/soak")},
    )
    assert broker.names == ("default", "system", "twin", "far")
    default, system, twin, far = (broker.options(name) for name in broker.names)
    assert (default.user, default.domain, default.servers) == ("app", "hub", ("nats://127.0.0.1:4222",))
    assert (system.user, system.password, system.domain) == (None, None, "hub")
    assert system.token is not None
    assert twin == default
    assert (far.user, far.domain, far.servers) == ("app", "edge", ("nats://far:4222",))
    assert far.tls is not None
    assert far.tls.ca == Path("/soak/far.pem")
    assert default.tls is not None
    assert default.tls.ca == Path("/soak/ca.pem")
    with pytest.raises(KeyError):
        broker.options("nobody")
    with pytest.raises(KeyError):
        Broker.model_validate({"servers": SERVERS}).options("system")
