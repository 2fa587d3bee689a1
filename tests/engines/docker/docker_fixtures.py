"""Fixtures for tests on containers, to be imported by the `conftest.py` of whoever needs them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from docker_engine import Client, PrivateEngine, any_engine
from provisioning import build_images


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


@pytest.fixture(scope="session")
def images(docker_session: Client) -> Iterator[str]:
    """Build the images of deploy/ and return what their names begin with; that takes some 10 s."""
    prefix = f"soakd-test-{uuid.uuid4().hex[:8]}"
    build_images(docker_session, prefix)
    yield prefix
    if not isinstance(docker_session, PrivateEngine):
        for name in (prefix, f"{prefix}-base", f"{prefix}-nats"):
            docker_session.call("DELETE", f"images/{name}", force=1)
