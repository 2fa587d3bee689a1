from __future__ import annotations

import pytest
from docker_fixtures import docker, docker_session, images  # noqa: F401  # fixtures
from docker_harness import DockerHarness
from harness import Harness, ProcessHarness


@pytest.fixture(params=["ProcessHarness", "DockerHarness"])
def harness(request: pytest.FixtureRequest) -> Harness:
    """Every kind of engine there is: the contract holds for all of them."""
    if request.param == "DockerHarness":
        return DockerHarness(request.getfixturevalue("docker"))
    return ProcessHarness()
