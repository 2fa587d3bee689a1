"""docs/soak-file.md explains every key, and every example in it is right."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from supervisor.soakfile.load import load
from supervisor.soakfile.schema import json_schema

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "soak-file.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

AROUND = {
    "soak": "soak: page\n",
    "engines": """engines:
  around:
    process:
      units: {api: {command: api}, worker: {command: worker, labels: {tier: backend}}, orders: {command: orders}, nats1: {command: nats-server}}
""",
    "broker": "broker: {servers: [127.0.0.1]}\n",
    "loads": "loads: {e2e: {command: pytest}}\n",
    "faults": "faults: {restart-all: {restart: api, every: 40s}}\n",
}
"""What the page's examples leave out because it stands in another one."""


def whole(block: str) -> str:
    """Return a block with what it leaves out."""
    here = set(re.findall(r"^(\w+):", block, re.MULTILINE))
    return block + "".join(text for key, text in AROUND.items() if key not in here)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split(":")[0])
def test_every_example_loads_and_is_valid(block: str, tmp_path: Path) -> None:
    file = tmp_path / "soak.yaml"
    file.write_text(whole(block))
    shutil.copy(ROOT / "config" / "own_load.py", tmp_path)  # what `python: own_load.py:Echo` means
    load(file, {})
    Draft202012Validator(json_schema()).validate(YAML(typ="safe", pure=True).load(file))


def test_every_key_is_explained() -> None:
    schemas = [json_schema(), *json_schema()["$defs"].values()]
    keys = {key for schema in schemas for key in schema.get("properties", ())}
    missing = sorted(key for key in keys if not re.search(rf"`{key}`", PAGE))
    assert not missing, f"docs/soak-file.md does not explain {missing}"


def test_every_section_has_a_heading() -> None:
    headings = re.findall(r"^##.*$", PAGE, re.MULTILINE)
    for key in ("engines", "broker", "watchdogs", "loads", "faults", "steady_state", "thresholds", "on"):
        assert any(f"`{key}`" in heading for heading in headings), key
