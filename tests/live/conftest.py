"""Terminals that show `soakd watch`, and a server that they show."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from watch_terminal import PATIENCE, Terminal, Watch

from supervisor.broker.ports import free_ports


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Start `soakd watch` with these words: `watch(url)`."""
    opened: list[Terminal] = []

    def start(*words: str, **more: Any) -> Terminal:
        opened.append(terminal := Terminal(*words, **more))
        return terminal

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a server; its user is `WHO`."""
    port = next(free_ports())
    config = tmp_path / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{tmp_path}/store" }}\n'
        "authorization { user: admin, password: secret }\n"
    )
    binary = Path(sys.executable).with_name("nats-server")
    process = subprocess.Popen([binary, "-c", config, "-l", tmp_path / "log"])  # noqa: ASYNC220
    deadline = time.monotonic() + PATIENCE
    while "Server is ready" not in ((tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""):
        assert time.monotonic() < deadline
        await anyio.sleep(0.02)
    yield f"nats://127.0.0.1:{port}"
    process.kill()
    process.wait()
