"""The kinds of engine there are."""

from __future__ import annotations

from supervisor.engines.base import Engine
from supervisor.engines.docker import DockerEngine
from supervisor.engines.process import ProcessEngine
from supervisor.kinds import Registry

ENGINES: Registry[Engine] = Registry("engine", "soakd.engines", Engine, [ProcessEngine, DockerEngine])
