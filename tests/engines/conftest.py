from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker_client import Client
from docker_gate import gated
from docker_harness import DockerHarness
from harness import Harness, ProcessHarness


@pytest.fixture(params=["ProcessHarness", "DockerHarness"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Every kind of engine there is: the contract holds for all of them, for Docker's over TCP, behind a proxy that knows docs/docker-api.md."""
    if request.param == "ProcessHarness":
        yield ProcessHarness()
        return
    client: Client = request.getfixturevalue("docker")
    with gated(client.url, None) as gate:
        yield DockerHarness(client, gate.url)
    assert gate.refused == []
