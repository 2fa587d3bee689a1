from __future__ import annotations

import re
import sys
from pathlib import Path

from demo_system import E2E, SERVICES

import supervisor.demo
from supervisor.loads.command import CommandLoad
from supervisor.soakfile.load import load

FILE = Path(supervisor.demo.__file__).parent / "soak.yaml"


def test_the_demo_is_a_soak_file_without_problems() -> None:
    loaded = load(FILE, {"SOAKD_PYTHON": sys.executable})
    soak = loaded.soak
    assert set(soak.units()) == {*SERVICES, "nats1", "nats2", "nats3"}
    for engine in soak.engines.values():
        assert engine.problems(FILE.parent) == []
    for one in soak.loads.values():
        assert one.problems(FILE.parent) == []


def test_the_demo_runs_tests_that_exist() -> None:
    load_ = load(FILE, {"SOAKD_PYTHON": sys.executable}).soak.loads["e2e"]
    assert isinstance(load_, CommandLoad)
    assert load_.counts_tests
    asked = [argument for argument in load_.argv if "::" in argument]
    written = [
        f"{file.name}::{name}"
        for file in E2E.glob("test_*.py")
        for name in re.findall(r"^async def (test_\w+)", file.read_text(), re.MULTILINE)
    ]
    assert sorted(asked) == sorted(written)
