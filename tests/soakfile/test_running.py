"""A soak file whose embedded broker belongs to a run that goes on, as others than that run read it."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest

from supervisor.broker.embedded import FILE, expand
from supervisor.journal.runs import RunIndex
from supervisor.soakfile.errors import NotRunning, SoakFileError
from supervisor.soakfile.load import load
from supervisor.soakfile.running import load_running

FIRST = 20_001


def test_its_nodes_are_made_one_after_the_other(tmp_path: Path) -> None:
    file, directory = tmp_path / "soak.yaml", tmp_path / "run"
    file.write_text(json.dumps({"soak": "small", "broker": {"embedded": {"nodes": 3}}}))
    index = RunIndex(tmp_path / "state")
    engine, _ = expand({"nodes": 3}, count(FIRST))
    with pytest.raises(NotRunning, match="no run of small goes on"):
        load_running(file, index)
    entry = index.enter("small-1", directory, "small", file)
    try:
        for made, (name, unit) in enumerate(engine["process"]["units"].items()):
            with pytest.raises(
                NotRunning, match=f"{made} of its 3 nodes so far" if made else "no run of small"
            ):
                load_running(file, index)
            (directory / "units" / name).mkdir(parents=True)
            (directory / "units" / name / FILE).write_text(unit["files"][FILE])
        broker = load_running(file, index).soak.broker
        assert broker
        assert broker.servers == tuple(f"nats://127.0.0.1:{FIRST + 3 * n}" for n in range(3))
    finally:
        entry.leave()


def test_a_run_keeps_the_nodes_that_it_has(tmp_path: Path) -> None:
    file = tmp_path / "soak.yaml"
    file.write_text(json.dumps({"soak": "small", "broker": {"embedded": {"nodes": 3}}}))
    with pytest.raises(SoakFileError, match=r"broker\.embedded: the run that goes on has fewer nodes"):
        load(file, ports=iter(range(FIRST, FIRST + 3)))
