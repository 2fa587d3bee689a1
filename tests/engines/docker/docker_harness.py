from __future__ import annotations

import uuid

from docker_client import Client
from harness import READY, Program

from supervisor.engines.docker import DockerEngine
from supervisor.engines.dockerd.names import PROJECT, SERVICE


class DockerHarness:
    """The contract's programs as the services of a compose project, and the engine where `url` says."""

    def __init__(self, client: Client, url: str) -> None:
        self._client, self._url = client, url

    def engine(self, units: dict[str, Program]) -> DockerEngine:
        project = f"contract-{uuid.uuid4().hex[:8]}"
        for unit, program in units.items():
            starts = program is not Program.UNSTARTABLE
            self._client.create(
                f"{project}_{unit}_1",
                program.value if starts else [program.value],
                {PROJECT: project, SERVICE: unit, "program": program.name},
                init=starts,
            )
        return DockerEngine.model_validate(
            {
                "docker": {
                    "project": project,
                    "host": self._url,
                    "start": True,
                    "stop_timeout": "1s",
                    "ready": {unit: READY[program] for unit, program in units.items() if program in READY},
                }
            }
        )
