"""The plan that `soakd check` shows."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from supervisor.soakfile.load import Loaded, load
from supervisor.soakfile.plan import plan, sections

ROOT = Path(__file__).parents[2]
SOAK = """\
soak: shop
duration: 4h
seed: 7
engines:
  local:
    process:
      units:
        api: {command: [sleep, 1000], after: [db, cache]}
        db: {command: [no-such-program-here]}
        cache: {command: [sleep, 1000]}
broker: {servers: [127.0.0.1], user: me, password: topsecret}
watchdogs:
  - units: [api, db]
    intensity: 5 / 1m
loads:
  e2e: {command: [echo, topsecret], pause: 3s}
faults:
  one: {restart: {of: [api, db, cache], pick: one}, between: [1m, 2m]}
  at: {restart: api, at: [10m, 5m]}
thresholds:
  - "load e2e: ok >= 95%"
"on":
  end: {command: echo done}
"""


def shop(tmp_path: Path, text: str = SOAK) -> Loaded:
    file = tmp_path / "soak.yaml"
    file.write_text(text)
    return load(file, {})


def shown(loaded: Loaded, width: int = 1000) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(plan(loaded))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue().replace(f"{loaded.base}/", "")
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_the_whole_plan(tmp_path: Path) -> None:
    assert (
        shown(shop(tmp_path))
        == """\
soak shop
  for 4h, seed 7, 7s to end after a signal
units, in the order they start
  1. db (local), cache (local)
  2. api (local)
watchdogs
  api, db: permanent, given up after more than 5 / 1m
  none for cache: what crashes there stays down
broker
  servers nats://127.0.0.1:4222
  connections default
loads
  e2e: command: [echo, ***], pause: 3s
faults
  one: restart: {of: [api, db, cache], pick: one}, between: [1m, 2m]
    one#1 1m43s after the start: db
    one#2 1m57s after the last one: db
    one#3 1m53s after the last one: db
  at: restart: api, at: [10m, 5m]
    at#1 5m after the start: api
    at#2 10m after the start: api
steady state, since the file names none
  unit api up
  unit db up
  unit cache up
  broker canary < 1s
thresholds
  load e2e: ok >= 95%
commands at the end
  on end: command: echo done
warnings
  soak.yaml:5:3: engines.local: db: its command no-such-program-here is not on PATH; install it, or write its path"""
    )


def test_long_lines_wrap_below_where_they_begin(tmp_path: Path) -> None:
    lines = shown(shop(tmp_path), width=40).splitlines()
    at = lines.index("  one: restart: {of: [api, db, cache],")
    assert lines[at + 1] == "  pick: one}, between: [1m, 2m]"


def test_a_small_soak_has_a_small_plan(tmp_path: Path) -> None:
    assert (
        shown(shop(tmp_path, "soak: x\n"))
        == """\
soak x
  until it is stopped, a new seed for each run, 7s to end after a signal"""
    )


def test_draws_without_a_seed_are_an_example(tmp_path: Path) -> None:
    headings = [heading for heading, _ in sections(shop(tmp_path, SOAK.replace("seed: 7\n", "")))]
    assert "faults, with the draws of seed 0 as an example" in headings


def test_an_embedded_broker_is_shown_with_its_units() -> None:
    loaded = load(ROOT / "supervisor" / "demo" / "soak.yaml", {})
    plans = dict(sections(loaded))
    assert (
        plans["units, in the order they start"][0]
        == "1. nats1 (embedded), nats2 (embedded), nats3 (embedded)"
    )


def test_the_draws_of_the_nemesis_and_of_faults_that_come_after_others(tmp_path: Path) -> None:
    faults = "faults:\n  one: {restart: {of: [api, db, cache], pick: one}}\n  then: {restart: api, after: one, every: 5s}\n"
    of = "nemesis: {of: {one: 1}, every: 10s, quiet: 50%, times: 2}\nlimits: {episodes: 1}\n"
    start, rest = SOAK.index("faults:"), SOAK.index("thresholds:")
    told = shown(shop(tmp_path, SOAK[:start] + faults + of + SOAK[rest:]))
    assert "  then#1 5s after one: api\n" in told
    lines = told[told.index("\nnemesis\n") :].splitlines()[2:]
    assert lines[0] == "  of: {one: 1}, every: 10s, quiet: 50%, times: 2"
    drawn = lines[1 : lines.index("limits")]
    assert drawn[0].startswith("    10s after the start: ")
    assert all(line.startswith("    10s after the last one: ") for line in drawn[1:])
    assert [line.split(": ")[1] for line in drawn if "quiet" not in line] == ["one#1", "one#2"]
    assert lines[lines.index("limits") + 1] == "  episodes: 1"


def test_a_baseline_comes_before_the_faults(tmp_path: Path) -> None:
    nemesis = "nemesis: {of: {one: 1}, every: 10s, times: 1}\nbaseline: 2m\n"
    told = shown(
        shop(
            tmp_path,
            SOAK.replace("faults:\n", "faults:\n  drawn: {restart: api}\n") + nemesis.replace("one", "drawn"),
        )
    )
    assert "  for 4h after a baseline of 2m, in which loads run and faults wait, seed 7, " in told
    assert "    at#1 5m after the baseline: api\n" in told
    assert "    10s after the baseline: drawn#1: api\n" in told
    assert "after the start" not in told
