from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.broker import ports as module
from supervisor.broker.ports import Ports, free_ports

DRAW = "import sys; from itertools import islice; from supervisor.broker.ports import free_ports; "
DRAW += "print(*islice(free_ports(), 500), flush=True); sys.stdin.read()"


@pytest.fixture
def ports() -> Iterator[Ports]:
    ports = Ports()
    yield ports
    ports.close()


def test_free_ports_are_free_and_each_comes_once() -> None:
    found = [next(free_ports()) for _ in range(50)]
    assert len(set(found)) == 50
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(found) < low, "no outgoing connection can take it"


def test_a_port_at_which_somebody_listens_is_left_out(ports: Ports) -> None:
    next(ports)
    taken = ports._left[-1]
    with socket.create_server(("127.0.0.1", taken)):
        assert next(ports) != taken


def test_nobody_else_is_given_a_port_that_was_given_to_one_who_lives(ports: Ports) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRAW], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin
        assert other.stdout
        theirs = set(map(int, other.stdout.readline().split()))
        ours = set(itertools.islice(ports, 500))
        assert len(theirs) == 500
        assert not theirs & ours
        other.stdin.close()


def test_where_all_have_been_given_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ports: Ports
) -> None:
    (tmp_path / "range").write_text("10256\t60999\n")
    monkeypatch.setattr(module, "_RANGE", tmp_path / "range")
    with pytest.raises(ValueError, match=r"cannot find another free port of .* between 10000 and 10256"):
        list(itertools.islice(ports, 257))
