"""The health check of a container."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from supervisor.journal.runs import RunIndex
from supervisor.live.alive import lifeless


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_who_does_not_answer_is_lifeless(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    index = RunIndex(state_dir)
    command = [sys.executable, "-m", "supervisor", "alive"]
    nobody = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert (nobody.returncode, nobody.stderr) == (1, "soakd: no run goes on here\n")

    run = tmp_path / "run"
    run.mkdir()
    entry = index.enter("a-run", run, "soak")
    assert "no endpoint" in (lifeless(index) or "")
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        (run / "endpoint").write_text(f"http://127.0.0.1:{server.server_port}\n")
        try:
            assert lifeless(index, 30) is None
            assert subprocess.run(command, timeout=90, check=False).returncode == 0
        finally:
            server.shutdown()
            thread.join()
    assert "does not answer" in (lifeless(index) or "")

    with socket.create_server(
        ("127.0.0.1", 0)
    ) as stuck:  # accepts, as a kernel does for a process that is stopped
        (run / "endpoint").write_text(f"http://127.0.0.1:{stuck.getsockname()[1]}\n")
        assert "does not answer" in (lifeless(index, 0.1) or "")
    entry.leave()
