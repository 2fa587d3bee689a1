"""config/lame-duck.yaml with each client, both shown side by side, and config/foreign-client.yaml: as they stand, but for their times."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor.broker.ports import free_ports
from supervisor.journal.events import EpisodeClosed, PhaseEntered
from supervisor.journal.replay import ReplayError, replay

CONFIG = Path(__file__).parent.parent / "config"
DURATION = re.compile(r"^duration: .*$", re.MULTILINE)
AFTER = 2.0
"""Seconds that a soak goes on for once its rollout is over."""
ASKED = "hot_swaps >= 1"


class Rollout:
    """One soak, which ends in order soon after its rollout did, however long that took."""

    def __init__(self, soak: str, place: Path, **environment: str) -> None:
        place.mkdir()
        self.soak, self.place, self.file = soak, place, place / f"{soak}.yaml"
        shutil.copy(CONFIG / "foreign_client.py", place)
        self.file.write_text((CONFIG / self.file.name).read_text().replace("at: [20s]", "at: [2s]"))
        self.environment = os.environ | environment | {"SOAKD_STATE_DIR": str(place / "state")}
        self.log = (place / "log").open("wb")
        self.process = subprocess.Popen(
            [*self.soakd, "run", str(self.file), "--run-dir", str(place / "runs")],
            env=self.environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    soakd = (sys.executable, "-m", "supervisor")

    @property
    def directory(self) -> Path:
        return next((self.place / "runs" / self.soak).glob("*Z"))

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait for the rollout, have the soak last a little longer, and return exit code and verdict."""
        deadline = time.monotonic() + 150
        while (lasted := self.rollout()) is None and time.monotonic() < deadline:
            assert self.process.poll() is None, self.told()
            time.sleep(0.3)
        assert lasted is not None, self.told()
        text = self.file.read_text()
        assert DURATION.search(text)
        self.file.write_text(DURATION.sub(f"duration: {lasted + AFTER:.0f}s", text))
        reload = [*self.soakd, "reload", str(self.directory)]
        done = subprocess.run(
            reload, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        self.process.wait(60)
        return self.process.returncode, json.loads((self.directory / "verdict.json").read_text())

    def rollout(self) -> float | None:
        """Return the seconds from the begin of the soak until just now, once the rollout is over."""
        begun, over = 0.0, False
        try:
            for record in replay(self.directory):
                if isinstance(record.event, PhaseEntered) and record.event.phase == "soaking":
                    begun = record.mono
                over = over or isinstance(record.event, EpisodeClosed)
        except (StopIteration, ReplayError):  # it has just begun
            return None
        return time.monotonic() - begun if over else None

    def told(self) -> str:
        return (self.place / "log").read_text()[-3000:]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self.log.close()


@pytest.mark.timeout(240)
def test_each_client_is_judged_by_what_happened_and_both_stand_side_by_side(tmp_path: Path) -> None:
    rollouts = [
        Rollout("lame-duck", tmp_path / client, CLIENT=client, ROLLOUT_AFTER="2s")
        for client in ("default", "make_before_break")
    ]
    try:
        (default_code, default), (code, verdict) = [rollout.end() for rollout in rollouts]
        late = "soakd's own event loop once lagged"  # a machine that is too busy for soakd itself
        for one in (default, verdict):
            assert all(load["counters"]["lame_ducks"] >= 1 for load in one["loads"].values()), (
                "they heard of it"
            )
            for broken in (each for each in one["thresholds"] if each["verdict"] != "pass"):
                assert broken["verdict"] == "fail", broken

        # The one that moves in time fails nothing.
        reasons = [reason for reason in verdict["reasons"] if late not in reason["text"]]
        assert not reasons
        assert code == (3 if verdict["reasons"] else 0)
        assert len(verdict["thresholds"]) == 11
        assert all(load["counters"]["hot_swaps"] >= 1 for load in verdict["loads"].values())
        assert failures(verdict) == 0

        # The one that waits is asked for no swap, and fails or passes by its operations.
        assert len(default["thresholds"]) == 9
        assert sorted(default["run"]["not_asked"]) == [f"load events: {ASKED}", f"load rpc: {ASKED}"]
        assert not any(load["counters"].get("hot_swaps") for load in default["loads"].values())
        shares = [load["ok_share"] for load in default["loads"].values()]
        lost = default["loads"]["events"]["counters"]["lost"]
        bad = failures(default) > 0 or min(shares) < 0.95 or lost > 0
        assert default["verdict"] == ("fail" if bad else "inconclusive" if default["reasons"] else "pass")
        assert default_code == {"pass": 0, "fail": 1, "inconclusive": 3}[default["verdict"]]

        page = tmp_path / "clients.html"
        report = [*Rollout.soakd, "report", *(str(rollout.directory) for rollout in rollouts)]
        report += ["--output", str(page)]
        done = subprocess.run(report, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == max(code, default_code, key=[0, 3, 1].index), done.stderr
        rows = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]
        assert ["verdict", default["verdict"].upper(), verdict["verdict"].upper()] in rows
        assert rows.count(["client", "default", "make_before_break"]) == 2
        assert any(row[:2] == [f"load rpc: {ASKED}", "not asked"] for row in rows)
        for load in ("rpc", "events"):
            counts = [
                one["loads"][load]["failed"] + one["loads"][load]["indeterminate"]
                for one in (default, verdict)
            ]
            assert ["failures", *(f"{count:,}" for count in counts)] in rows
        text = page.read_text()
        assert text.count("<td>default</td><td>make_before_break</td>") == 2
        assert text.count("<svg") == 2, "the course of each"
    finally:
        for rollout in rollouts:
            rollout.close()


@pytest.mark.timeout(240)
def test_a_client_of_somebody_else_is_judged_by_what_it_prints(tmp_path: Path) -> None:
    rollout = Rollout("foreign-client", tmp_path / "foreign", PYTHON=sys.executable)
    try:
        _, verdict = rollout.end()
        told = {one["threshold"]: one["verdict"] for one in verdict["thresholds"]}
        counters = verdict["loads"]["client"]["counters"]
        assert told.pop("load client: counter rpc.ok >= 50") == "pass"
        assert told.pop("load client: counter event.ok >= 20") == "pass"
        assert told["load client: counter program_crashes == 0"] == "pass"
        assert told["load client: counter hot_swaps >= 1"] == "pass"
        client = verdict["loads"]["client"]
        bad = failures(verdict) + client["unexplained_failures"] + counters["duplicates"] + counters["lost"]
        assert ("fail" in told.values()) == bool(bad or client["ok_share"] < 0.95)
        (episode,) = verdict["episodes"]
        assert episode["unmet"] == [], "its server's log told of lame-duck mode, and that it moved"
        evidence = (rollout.directory / "evidence.csv").read_text()
        for seen in ("LAME DUCK MODE DETECTED", "HOT SWAP"):
            assert re.search(rf"^rollout#1\.during\.log .*{seen}.*,[1-9]", evidence, re.MULTILINE), evidence
    finally:
        rollout.close()


FAKE_ETCD = """#!{python}
import http.server, json, pathlib, re, sys
assert sys.argv[1] == "--config-file"
port = int(re.search(r"listen-client-urls.*:(\\d+)", pathlib.Path(sys.argv[2]).read_text())[1])
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""
"""Stands for etcd where it is not installed: it answers as etcd does when it is well."""


def beside_etcd(place: Path, path: str) -> subprocess.CompletedProcess[str]:
    """Run config/lame-duck-etcd.yaml for a moment, without its rollout."""
    ports = free_ports()
    own = {"PATH": path, "ETCD_PORT": str(next(ports)), "ETCD_PEER_PORT": str(next(ports)), "DURATION": "3s"}
    return subprocess.run(
        [*Rollout.soakd, "run", str(CONFIG / "lame-duck-etcd.yaml"), "--run-dir", str(place / "runs")],
        env=os.environ | own | {"SOAKD_STATE_DIR": str(place / "state")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.timeout(120)
def test_etcd_is_a_further_unit_where_it_is_installed(tmp_path: Path) -> None:
    path = os.environ["PATH"]
    if shutil.which("etcd") is None:
        program = tmp_path / "bin" / "etcd"
        program.parent.mkdir()
        program.write_text(FAKE_ETCD.replace("{python}", sys.executable))
        program.chmod(0o755)
        path = f"{program.parent}:{path}"
    done = beside_etcd(tmp_path, path)
    (file,) = (tmp_path / "runs").glob("lame-duck-etcd/*Z/verdict.json")
    verdict = json.loads(file.read_text())
    (etcd,) = [one for one in verdict["thresholds"] if one["threshold"] == "crashes of etcd == 0"]
    assert etcd["verdict"] == "pass", done.stdout
    assert "unit etcd up" in verdict["probes"]
    assert verdict["probes"]["unit etcd up"]["ok"] is not False


def test_a_soak_that_needs_etcd_says_so_where_it_is_not(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = beside_etcd(tmp_path, str(empty))
    assert done.returncode == 2
    assert "etcd: its command etcd is not on PATH; install it, or write its path" in done.stderr


def failures(verdict: dict[str, Any]) -> int:
    """Failed and indeterminate operations that overlapped the rollout."""
    (episode,) = verdict["episodes"]
    return sum(episode["failures_by_stage"].values())
