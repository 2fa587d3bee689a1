"""What the documents say must be so."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path

import pytest

from supervisor.cli import parser
from supervisor.soakfile.load import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def commands() -> set[str]:
    actions = [one for one in parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return set(actions[0].choices) - {"daemon"}


def test_the_readme_has_every_command_and_no_other() -> None:
    told = set(re.findall(r"^\| `soakd ([a-z]+)", README, re.MULTILINE))
    assert told == commands()


def test_the_readmes_soak_file_loads(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        (tmp_path / "soak.yaml").write_text(block)
        load(tmp_path / "soak.yaml")


def test_the_architecture_page_has_every_room_and_no_other() -> None:
    told = set(re.findall(r"^\| `supervisor/([a-z_]+(?:\.py)?)`", ARCHITECTURE, re.MULTILINE))
    there = {
        path.name
        for path in (ROOT / "supervisor").iterdir()
        if (path.is_dir() and (path / "__init__.py").is_file()) or path.suffix == ".py"
    }
    assert told == there - {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("page", [README, ARCHITECTURE], ids=["README.md", "architecture.md"])
def test_what_a_page_points_at_is_there(page: str) -> None:
    paths = set(re.findall(r"`((?:supervisor|scripts|tests|docs|config|deploy)/[\w./@-]+)`", page))
    paths |= set(re.findall(r"\]\(([^)#:]+)\)", page))
    assert paths
    for path in sorted(paths):
        found = [ROOT / path, ROOT / "docs" / path]
        assert any(one.exists() for one in found), f"{path} is not there"


def test_every_test_that_the_architecture_page_names_is_there() -> None:
    file, named = "", 0
    for path, name in re.findall(r"`(tests/[\w/]+\.py)?::(\w+)`", ARCHITECTURE):
        file, named = path or file, named + 1
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file} has no {name}"
    assert named > 20


def test_every_benchmark_stands_in_the_architecture_page() -> None:
    there = {path.name for path in (ROOT / "scripts" / "bench").iterdir() if os.access(path, os.X_OK)}
    assert there <= set(re.findall(r"\| `([a-z_]+)` \|$", ARCHITECTURE, re.MULTILINE))


def test_the_benchmarks_say_which_there_are() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "benchmarks", "nothing"], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 2
    assert "idle_units" in done.stderr


def test_constraints_pin_without_addresses() -> None:
    lines = [one for one in (ROOT / "constraints.txt").read_text().splitlines() if not one.startswith("#")]
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+]+", line) for line in lines)
