"""What `soakd check` calls worth a look, and refuses nothing for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.soakfile.load import load
from supervisor.soakfile.plan import sections, warnings

UNIT = {"command": ["sleep", "1000"]}
BROKER = {"servers": ["127.0.0.1:4222"]}


def entries(key: str, what: str = "change", bucket: str = "CONFIG") -> dict[str, Any]:
    return {"corrupt": {what: {"bucket": bucket, "key": key}}, "hold": "1m", "every": "10m"}


def said(folder: Path, **keys: Any) -> list[str]:
    soak = {
        "soak": "shop",
        "duration": "30m",
        "engines": {"local": {"process": {"units": {"api": UNIT, "db": UNIT}}}},
        **keys,
    }
    file = folder / "soak.yaml"
    file.write_text(json.dumps(soak))
    found = dict(sections(load(file, {}))).get("worth a look", [])
    return [line.partition(": ")[2] for line in found]


STOP = {"stop": "api", "hold": "10m"}
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": ({"faults": {"a": {**STOP, "at": ["1m", "15m"]}, "b": {"restart": "api", "at": ["11m"]}}}, []),
    "at": (
        {"faults": {"a": {**STOP, "at": ["29m", "30m", "1h"]}}},
        ["faults.a.at: 30m, 1h is not within the 30m that the soak lasts: it never comes"],
    ),
    "every": (
        {"faults": {"a": {"restart": "api", "every": "1h"}}},
        ["faults.a.every: the first comes after 1h, and the soak lasts 30m: it never comes"],
    ),
    "between": (
        {"faults": {"a": {"restart": "api"}}, "nemesis": {"of": ["a"], "between": ["30m", "1h"]}},
        ["nemesis.between: the first comes after 30m, and the soak lasts 30m: it never comes"],
    ),
    "hold": (
        {"faults": {"a": {"stop": "api", "hold": "30m", "at": ["1m"]}}},
        [
            "faults.a.hold: 30m is no less than the 30m that the soak lasts: every episode is cut short by its end"
        ],
    ),
    "one-unit": (
        {
            "faults": {
                "out": {**STOP, "at": ["1m", "12m"]},
                "freeze": {"pause": ["db", "api"], "hold": "1s", "at": ["15m"]},
            }
        },
        [
            "faults.freeze.at: at 15m out, from 12m on for 10m, still has api: it waits until that is over",
        ],
    ),
    "entries": (
        {
            "broker": BROKER,
            "faults": {
                "a": entries("user.*"),
                "b": entries("user", "delete"),
                "c": entries("other"),
                "d": entries("user", bucket="OTHER"),
            },
        },
        [
            (
                "faults.b.corrupt: a damages entries user.* of CONFIG as well: while one of the two is open the other leaves what "
                "that has damaged alone, and is skipped if nothing else is left"
            )
        ],
    ),
    "temporary": (
        {
            "watchdogs": [{"units": "api", "restart": "temporary"}, {"units": "db"}],
            "faults": {"a": {"kill": ["api", "db"], "every": "1m"}},
        },
        ["faults.a.kill: the watchdog of api is temporary, so nobody starts it again: it stays down"],
    ),
    "overlap": (
        {
            "faults": {"a": {"restart": "api"}},
            "nemesis": {"of": ["a"], "every": "1m", "overlap": True, "only_when": "steady"},
            "limits": {"episodes": 1},
        },
        [
            "nemesis.overlap: limits: episodes is 1, so no two of them are ever open together",
            (
                "nemesis.only_when: each draw waits for the steady state, which as a rule does not hold while a fault is open: "
                "they hardly overlap"
            ),
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_worth_a_look(case: str, tmp_path: Path) -> None:
    keys, expected = CASES[case]
    assert [line.removeprefix(" ") for line in said(tmp_path, **keys)] == expected


def test_a_configuration_beside_the_soak_file_that_a_server_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    for name, duration in (("short", "10s"), ("long", "30s")):
        (tmp_path / "conf" / f"{name}.conf").write_text(f"lame_duck_duration: {duration}\n")
    commands = {
        "n1": ["nats-server", "-c", "short.conf"],
        "n2": ["nats-server", "--config=long.conf"],
        "n3": ["nats-server", "--config=short.conf"],
        "n4": ["nats-server", "-c", "none.conf"],
    }
    file = tmp_path / "soak.yaml"
    soak = {
        "soak": "shop",
        "engines": {
            "local": {"process": {"units": {n: {"command": c, "cwd": "conf"} for n, c in commands.items()}}}
        },
        "broker": {
            **BROKER,
            "nodes": {name: {} for name in commands},
            "system": {"user": "a", "password": "b"},
        },
        "faults": {"rollout": {"rolling_lame_duck": list(commands), "every": "10m"}},
    }
    file.write_text(json.dumps(soak))
    found = [one for one in warnings(load(file, {}), tmp_path) if "faults.rollout" in one]
    what = "would refuse to start: lame_duck_duration in short.conf is 10s, expected 30s or more"
    assert [one.partition("rollout: ")[2] for one in found] == [f"n1 {what}", f"n3 {what}"]
