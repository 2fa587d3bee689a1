"""The JSON schema: the committed copy is this one, and it and the loader agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from supervisor.engines.registry import ENGINES
from supervisor.faults.registry import FAULTS
from supervisor.loads.registry import LOADS
from supervisor.probes.registry import PROBES
from supervisor.soakfile.load import load
from supervisor.soakfile.schema import json_schema

ROOT = Path(__file__).parents[2]
GOOD = [*sorted((ROOT / "config").glob("**/*.yaml")), *sorted((ROOT / "supervisor").glob("**/soak.yaml"))]


def valid(data: Any) -> bool:
    return Draft202012Validator(json_schema()).is_valid(data)


def schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield all schemas in a schema."""
    yield schema
    for word, value in schema.items():
        if word in ("properties", "$defs"):
            for inner in value.values():
                yield from schemas(inner)
        elif word in ("anyOf", "oneOf", "prefixItems"):
            for inner in value:
                yield from schemas(inner)
        elif word in ("items", "additionalProperties") and isinstance(value, dict):
            yield from schemas(value)


def test_the_committed_copy_is_this_one() -> None:
    committed = (ROOT / "config" / "soak.schema.json").read_text()
    assert json.loads(committed) == json_schema(), "run: soakd schema > config/soak.schema.json"
    assert committed == json.dumps(json_schema(), indent=2) + "\n"


def test_it_is_a_json_schema() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"].endswith("/draft/2020-12/schema")


@pytest.mark.parametrize("file", GOOD, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_soak_file_here_loads_and_is_valid(file: Path) -> None:
    load(file, {})
    Draft202012Validator(json_schema()).validate(YAML(typ="safe", pure=True).load(file))


def test_every_mapping_is_strict_but_those_of_ones_own_kinds() -> None:
    for schema in schemas(json_schema()):
        if "properties" in schema and "python" not in schema["properties"]:
            assert schema["additionalProperties"] is False, schema


@pytest.mark.parametrize("registry", [ENGINES, LOADS, FAULTS, PROBES], ids=lambda registry: registry.noun)
def test_it_knows_every_kind_by_its_key(registry: Any) -> None:
    required = [schema.get("required", []) for schema in json_schema()["$defs"].values()]
    for key in registry.kinds:
        assert any(key in keys for keys in required), key


def test_defaults_stand_there_as_one_writes_them() -> None:
    defaults = {
        key: field["default"]
        for schema in schemas(json_schema())
        for key, field in schema.get("properties", {}).items()
        if "default" in field
    }
    assert defaults["grace"] == "7s"
    assert defaults["recovery_timeout"] == "2m"
    assert defaults["pause"] == "0s"
    assert defaults["quiet"] == "0%"
    assert defaults["intensity"] == "20 / 10m"
    assert defaults["stop_signal"] == "SIGTERM"
    assert defaults["port"] == 0


def test_every_top_level_key_says_what_it_is() -> None:
    for key, field in json_schema()["properties"].items():
        assert field.get("description"), key


@pytest.mark.parametrize(
    ("more", "good"),
    [
        ({"duration": "${TIME:-4h}"}, True),
        ({"duration": "1h 30m"}, True),
        ({"duration": "4"}, False),
        ({"seed": "${SEED}"}, True),
        ({"seed": "seven"}, False),
        ({"web": {"port": "x ${PORT} y"}}, True),
        ({"broker": {"embedded": {"nodes": 3}}}, True),
        ({"broker": {"embedded": {"nodes": 3}, "servers": ["a"]}}, False),
        ({"broker": {}}, False),
        ({"watchdogs": [{"units": "a", "intensity": None}]}, True),
        ({"watchdogs": [{"units": "a", "delay": None}]}, False),
        ({"loads": {"a b": {"command": "x"}}}, False),
        ({"loads": {"a": {"python": "a.py:A", "whatever": 1}}}, True),
    ],
)
def test_what_an_editor_takes(more: dict[str, Any], good: bool) -> None:  # a parameter of the test
    assert valid({"soak": "x", **more}) == good


def test_secrets_are_marked() -> None:
    broker = json_schema()["$defs"]["Broker"]["properties"]
    assert broker["password"]["writeOnly"]
    assert "writeOnly" not in broker["user"]
