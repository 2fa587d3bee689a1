"""Whole runs with links: what units are told, a cluster behind links, and the deaths after which links only relay."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from link_harness import Echo
from soakd_run import SLEEPER, Soakd, soak_file, wait

from supervisor.journal import events as ev
from supervisor.links import remains


@pytest.fixture
def server() -> Iterator[str]:
    """A server of somebody else's that answers what it is sent."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    echo = Echo(listener)
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    echo.close()


def opened(run: Soakd) -> ev.LinksOpened:
    found: list[Any] = wait("the links", lambda: run.events(ev.LinksOpened))
    return found[0]  # type: ignore[no-any-return]


def dial(run: Soakd, link: str) -> socket.socket:
    host, _, port = opened(run).listen[link].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def ask(client: socket.socket, data: bytes = b"x") -> bytes:
    client.sendall(data)
    return take(client, len(data))


def take(client: socket.socket, count: int) -> bytes:
    """Receive so many bytes, which may come in pieces."""
    data = b""
    while len(data) < count and (piece := client.recv(count - len(data))):
        data += piece
    return data


def processes(run: Soakd) -> list[int]:
    return list(remains.processes(run.events(ev.RunStarted)[0].run))  # type: ignore[attr-defined]


def test_a_soak_disturbs_links_and_leaves_nothing(soakd: Soakd, server: str) -> None:
    hold = {"hold": "200ms"}
    faults = {
        "slow": {"latency": "db", "delay": "10ms", "at": ["0s"], **hold},
        "thin": {"bandwidth": "db", "rate": "1MB/s", "at": ["0s"], **hold},
        "cut": {"slice": "db", "size": "10B", "after": "slow", **hold},
        "hole": {"blackhole": "db", "direction": "down", "after": "cut", **hold},
        "some": {"connection_kill": "db", "share": "30%", "after": "hole"},
        "no": {"refuse": "db", "after": "some", **hold},
        "rst": {"reset": "db", "after": "no", **hold},
    }
    unit = {"command": ["sh", "-c", "env; echo up; exec sleep 1000"], "ready": {"log": "^up"}}
    soakd.start(
        soak_file(
            engines={"local": {"process": {"units": {"a": unit, "b": {"command": SLEEPER}}}}},
            links={"db": {"to": server}},
            faults=faults,
            thresholds=[],
        )
    )
    with dial(soakd, "db") as client:
        assert ask(client) == b"x"
        wait("the last of them", lambda: closed(soakd) >= set(faults))
    with dial(soakd, "db") as client:
        assert ask(client) == b"x"
    wait("a use of the system", soakd.used)
    soakd.stop()
    assert soakd.passes(), soakd.output
    assert len(soakd.events(ev.FaultInjected)) == len(faults), "each was in place"
    assert not soakd.events(ev.FaultFailed, ev.UndoFailed, ev.TaskCrashed)
    address = opened(soakd).listen["db"]
    assert f"SOAKD_LINK_DB={address}" in (soakd.run_dir / "units" / "a" / "output.log").read_text()
    assert not processes(soakd)


def closed(run: Soakd) -> set[str]:
    return {event.episode.partition("#")[0] for event in run.events(ev.EpisodeClosed)}  # type: ignore[attr-defined]


def test_an_embedded_cluster_behind_links_does_not_give_its_addresses_away(soakd: Soakd) -> None:
    unit = {"command": ["sh", "-c", "env; echo up; exec sleep 1000"], "ready": {"log": "^up"}}
    soakd.start(
        soak_file(
            engines={"local": {"process": {"units": {"a": unit, "b": {"command": SLEEPER}}}}},
            broker={"embedded": {"nodes": 3}},
            links={"n1": {"to": "nats1"}, "n2": {"to": "embedded/nats2"}},
            faults={"hole": {"blackhole": ["n1", "n2"], "every": "10m", "hold": "1s"}},
        )
    )
    wait("soaking", soakd.soaking, 50)
    with dial(soakd, "n1") as client:
        info = json.loads(client.makefile("rb").readline().removeprefix(b"INFO "))
    assert info["server_name"] == "nats1"
    assert not info.get("connect_urls")
    output = (soakd.run_dir / "units" / "a" / "output.log").read_text()
    told = next(line.rpartition("=")[2] for line in output.splitlines() if "SOAKD_NATS_URL=" in line).split(
        ","
    )
    listen = opened(soakd).listen
    assert told[:2] == [f"nats://{listen['n1']}", f"nats://{listen['n2']}"]
    assert told[2].removeprefix("nats://") not in listen.values()


FAULTS = {
    "hole": {"blackhole": "db", "hold": "1h", "at": ["0s"]},
    "slow": {"latency": "db", "delay": "1h", "hold": "1h", "at": ["0s"]},
    "thin": {"bandwidth": "db", "rate": "1B/s", "hold": "1h", "at": ["0s"]},
    "cut": {"slice": "db", "size": "1B", "gap": "1h", "hold": "1h", "at": ["0s"]},
    "no": {"refuse": "other", "hold": "1h", "at": ["0s"]},
    "rst": {"reset": "third", "hold": "1h", "at": ["0s"]},
    "some": {"connection_kill": "db", "at": ["1h"]},
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("guardian_too", [False, True])
def test_links_only_relay_once_the_daemon_is_dead(
    soakd: Soakd,
    server: str,
    guardian_too: bool,
    tmp_path: Path,
) -> None:
    links = {name: {"to": server} for name in ("db", "other", "third")}
    soakd.start(soak_file(links=links, faults=FAULTS))
    with dial(soakd, "db") as client:
        wait("them to be in place", lambda: len(soakd.events(ev.FaultInjected)) == len(FAULTS) - 1)
        client.sendall(b"held")
        daemon = soakd.daemon()
        if guardian_too:
            soakd.kill_guardian()
        else:
            # Healing ends the process of the links, which may be before the answer comes.
            soakd.stop(signal.SIGSTOP)
        os.kill(daemon, signal.SIGKILL)
        assert take(client, 4) == b"held", "what was accepted arrives, and nothing keeps the answer"
        soakd.stop(signal.SIGCONT)
        if guardian_too:
            assert ask(client, b"on") == b"on"
            for link in ("other", "third"):
                with dial(soakd, link) as again:
                    assert ask(again) == b"x"
            done = soakd.command("recover", str(soakd.run_dir.resolve()))
            assert done.returncode == 0, done.stderr
            assert "ended the process of the links" in done.stdout
        else:
            assert soakd.end(50) == 3, soakd.output
    assert not processes(soakd)
    assert not soakd.units()
    undone = {event.episode for event in soakd.events(ev.FaultUndone)}  # type: ignore[attr-defined]
    assert undone == {f"{name}#1" for name in FAULTS if name != "some"}
    assert not soakd.events(ev.UndoFailed)
