from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker_engine import Client, any_engine
from docker_harness import DockerHarness
from harness import Harness, ProcessHarness


@pytest.fixture(scope="session")
def docker_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One Docker engine for all tests: starting it takes half a second."""
    with any_engine(tmp_path_factory.mktemp("docker")) as client:
        yield client


@pytest.fixture
def docker(docker_session: Client) -> Iterator[Client]:
    """A Docker engine on which a test may leave containers and networks with the tests' label, but no lock."""
    yield docker_session
    left = docker_session.clean()
    assert not left, f"locks were left on the engine: {left}"


@pytest.fixture(params=["ProcessHarness", "DockerHarness"])
def harness(request: pytest.FixtureRequest) -> Harness:
    """Every kind of engine there is: the contract holds for all of them."""
    if request.param == "DockerHarness":
        return DockerHarness(request.getfixturevalue("docker"))
    return ProcessHarness()
