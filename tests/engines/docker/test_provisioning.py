"""The soak of the scripts that soakd replaces, on a compose project: config/provisioning.yaml, as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from docker_client import Client
from provisioning import provisioning, soak_it


@pytest.mark.timeout(300)
def test_one_file_does_what_the_scripts_did(docker: Client, images: str, tmp_path: Path) -> None:
    # The end-to-end tests are patient: in a soak this short one that fails would be a large share.
    with provisioning(docker, images, NATS_RESTART_EVERY="12s", E2E_PATIENCE="30") as system:
        soak_it(system, tmp_path)
