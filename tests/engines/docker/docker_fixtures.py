"""Fixtures for tests on containers, to be imported by the `conftest.py` of whoever needs them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from docker_client import NAME, Client
from docker_engine import PrivateEngine, any_engine, can_be_private
from provisioning import build_images


@pytest.fixture(scope="session")
def docker_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One Docker engine for all tests: starting it takes half a second. In memory, since it syncs a lot for each container."""
    root = tmp_path_factory.mktemp("docker")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4g", "soakd-tests", str(root)]
    in_memory = (
        not can_be_private() and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    )
    try:
        with any_engine(root) as client:
            yield client
    finally:
        if in_memory:
            subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.fixture
def docker(docker_session: Client) -> Iterator[Client]:
    """A Docker engine on which a test may leave containers and networks with the tests' label, but no lock."""
    yield docker_session
    left = docker_session.clean()
    assert not left, f"locks were left on the engine: {left}"


@pytest.fixture
def private(docker: Client) -> PrivateEngine:
    """An engine that may be ended."""
    if not isinstance(docker, PrivateEngine):
        pytest.skip("the engine here is somebody's: it is not restarted for a test")
    return docker


@pytest.fixture(scope="session")
def images(docker_session: Client) -> str:
    """Build the images of deploy/ and return what their names begin with; that takes some 10 s. They go with the session."""
    build_images(docker_session, prefix := f"{NAME}-soakd")
    return prefix
