"""The pure parts: who is a unit, what it is called, and what an engine's words mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.engines.base import EngineError
from supervisor.engines.dockerd.api import Endpoint, Tls
from supervisor.engines.dockerd.container import ended, incarnation, nanoseconds
from supervisor.engines.dockerd.names import (
    DEPENDS,
    NUMBER,
    ONE_OFF,
    OWN,
    PROJECT,
    SERVICE,
    Listed,
    Which,
    after,
    by_unit,
    refuse_clashes,
)

PROJECT_OF = Which(project="p")


def listed(service: str, number: int, state: str = "running", created: int = 1, **labels: str) -> Listed:
    own = {PROJECT: "p", SERVICE: service, NUMBER: str(number), **labels}
    return Listed(f"{service}-{number}-{created}", f"p-{service}-{number}", state, created, own)


def test_replicas_are_units_of_their_own() -> None:
    found = by_unit(PROJECT_OF, [listed("worker", n) for n in (1, 2, 10)] + [listed("api", 1)])
    assert list(found) == ["api", "worker", "worker-10", "worker-2"]


def test_what_is_no_unit() -> None:
    run = listed("worker", 7, **{ONE_OFF: "True"})
    lock = listed("worker", 8, **{OWN: "true"})
    other = Listed("x", "x", "running", 1, {PROJECT: "q", SERVICE: "worker", NUMBER: "1"})
    assert by_unit(PROJECT_OF, [run, lock, other]) == {}


def test_of_two_containers_the_one_that_is_up_counts_then_the_younger() -> None:
    old, new = listed("worker", 1, "exited", 1), listed("worker", 1, "created", 2)
    assert by_unit(PROJECT_OF, [old, new])["worker"][0] is new
    up = listed("worker", 1, "paused", 0)
    assert by_unit(PROJECT_OF, [old, new, up])["worker"][0] is up


def test_two_services_cannot_share_a_name() -> None:
    found = by_unit(PROJECT_OF, [listed("worker", 2), listed("worker-2", 1)])
    with pytest.raises(
        EngineError, match="worker-2 of compose project p: it is a container of both worker and worker-2"
    ):
        refuse_clashes(PROJECT_OF, found)


def test_the_order_is_the_one_of_compose() -> None:
    api = listed("api", 1, **{DEPENDS: "db:service_healthy:true,gone:service_started:false"})
    found = by_unit(PROJECT_OF, [api, listed("db", 1), listed("db", 2)])
    assert after(PROJECT_OF, found) == {"api": ("db", "db-2"), "db": (), "db-2": ()}


def test_by_name_and_by_label() -> None:
    containers = [Listed("1", "a", "running", 1, {"tier": "back=end"}), Listed("2", "b", "running", 1, {})]
    assert list(by_unit(Which(names=("b", "a")), containers)) == ["b", "a"]
    assert list(by_unit(Which(label="tier=back=end"), containers)) == ["a"]


def test_where_the_engine_is() -> None:
    tls = Tls(None, None, None)
    assert Endpoint.of(None, None, {}).url == "unix:///var/run/docker.sock"
    assert Endpoint.of(None, None, {"DOCKER_HOST": "tcp://h:1"}) == Endpoint("tcp://h:1")
    assert Endpoint.of("tcp://h:2", tls, {"DOCKER_HOST": "tcp://h:1"}) == Endpoint("https://h:2", tls)
    assert Endpoint.of("tcp://h", None, {}).url == "tcp://h:2375"
    assert Endpoint.of("tcp://[::1]/", tls, {}).url == "https://[::1]:2376"
    given = {"DOCKER_HOST": "tcp://h:1", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certs"}
    assert str(Endpoint.of(None, None, given).tls).count("/certs/") == 3


@pytest.mark.parametrize(
    ("code", "means"),
    [(0, (0, None)), (1, (1, None)), (137, (None, "SIGKILL")), (143, (None, "SIGTERM")), (255, (255, None))],
)
def test_exit_codes(code: int, means: tuple[int | None, str | None]) -> None:
    assert ended(code) == means


@given(st.datetimes(), st.integers(0, 999_999_999))
def test_times_keep_every_nanosecond(moment: object, nanos: int) -> None:
    text = str(moment)[:19].replace(" ", "T")
    if not text.startswith("0"):
        whole = nanoseconds(f"{text}Z")
        assert nanoseconds(f"{text}.{nanos:09d}Z") == whole + nanos
        assert nanoseconds(f"{text}.{nanos:09d}+01:30") == whole + nanos - 5400 * 10**9
        assert incarnation("c" * 64, whole + nanos).endswith(f".{nanos:09d}")


def test_never_is_no_time() -> None:
    assert nanoseconds("0001-01-01T00:00:00Z") == 0
