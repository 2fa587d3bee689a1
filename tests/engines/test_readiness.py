"""When a local process that runs can be used, and what is said of one that cannot."""

from __future__ import annotations

import socket

import anyio
import pytest
from harness import PATIENCE
from processes import opened, python, shell

from supervisor.broker.ports import free_ports
from supervisor.engines.base import EngineError
from supervisor.journal.writer import JournalWriter

SERVER = """
    import http.server, sys, time
    class Handler(http.server.BaseHTTPRequestHandler):
        looks = 0
        def do_GET(self):
            Handler.looks += 1
            self.send_response({"/late": 200 if Handler.looks > 2 else 503, "/gone": 410}[self.path])
            self.end_headers()
    time.sleep(0.1)
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.parametrize("ready", ["port", "late", "gone"])
async def test_ready_by_port_and_http(journal: JournalWriter, ready: str) -> None:
    port = next(free_ports())
    check = {
        "port": {"port": port},
        "late": {"http": f"http://127.0.0.1:{port}/late"},
        "gone": {"http": f"http://127.0.0.1:{port}/gone", "status": 410},
    }[ready]
    server = python(SERVER, ready=check)
    server["command"].append(port)
    async with opened(journal, server=server) as bench:
        await bench.units.start("server")
        with anyio.fail_after(PATIENCE):
            await bench.units.ready("server")
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE):
            pass


async def test_not_ready_says_what_was_seen(journal: JournalWriter) -> None:
    checks = {
        "port": (1, "127.0.0.1:1 to accept connections, last seen: nobody listens there"),
        "http": ("http://127.0.0.1:1/", "http://127.0.0.1:1/ to answer 200, last seen: Cannot connect.*"),
        "log": ("hello", "a line like hello in its output, last seen: no such line"),
    }
    units = {
        kind: {"command": "sleep 1000", "ready": {kind: wanted, "timeout": "1s"}}
        for kind, (wanted, _) in checks.items()
    }  # a busy machine has to have looked once by then

    async def see(kind: str, message: str) -> None:
        await bench.units.start(kind)
        expected = f"cannot see {kind} become ready: waited 1s for {message}; it wrote nothing"
        with pytest.raises(EngineError, match=expected):
            await bench.units.ready(kind)

    async with opened(journal, **units) as bench, anyio.create_task_group() as group:
        for kind, (_, message) in checks.items():
            group.start_soon(see, kind, message)


async def test_who_hangs_in_a_look_and_exits_is_told_at_once(journal: JournalWriter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        async with opened(journal, a=shell("sleep 0.05; exit 7", ready={"http": url})) as bench:
            await bench.units.start("a")
            with (
                anyio.fail_after(PATIENCE),
                pytest.raises(EngineError, match="it exited with code 7 before that"),
            ):
                await bench.units.ready("a")
