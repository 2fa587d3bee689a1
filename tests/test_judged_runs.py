"""Whole runs with a baseline, parts and windows, judged live and again from the journal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import pytest
from soakd_run import Soakd, wait

from supervisor.journal import events as ev
from supervisor.judge.report import FILES as REPORTS

OFTEN = "crashes == 0 in every 5s"
"""Has loads tell every second what they did."""
LAST = """
import signal, time
from pathlib import Path
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("up", flush=True)
signal.sigwait([signal.SIGTERM])
until = time.monotonic() + 60
while not Path("seen").exists() and time.monotonic() < until:
    time.sleep(0.01)
"""
"""A unit that ends only when the file `seen` is there: loads are over, and the run goes on until somebody has looked at it."""


def soak(**changes: Any) -> dict[str, Any]:
    """A server that is frozen for a while under load, after a baseline."""
    return {
        "soak": "small",
        "seed": 1,
        "duration": "7s",
        "baseline": "3s",
        "broker": {"embedded": {"nodes": 1}},
        "loads": {"rpc": {"request": "echo", "responder": "built_in", "rate": "100/s", "timeout": "300ms"}},
        "faults": {"freeze": {"pause": "nats1", "hold": "1s", "at": ["500ms"]}},
        "thresholds": [
            "ok outside episodes >= 90%",
            "failures during freeze >= 5",
            "ok operations >= 50",
            "ok rate <= 2x baseline",
            "ok >= 1% in every 5s",
            "load rpc: duplicates == 0",
        ],
        **changes,
    }


def last(folder: Path) -> dict[str, Any]:
    """Return the engines of a soak with `LAST`."""
    unit = {"command": [sys.executable, "-c", LAST], "cwd": str(folder), "stop_timeout": "60s"}
    return {"local": {"process": {"units": {"last": {**unit, "ready": {"log": "^up"}}}}}}


def shown_at_last(soakd: Soakd) -> dict[str, Any]:  # the fixture
    """Return what `/status` shows when all loads have ended, and let the run end."""

    def look() -> dict[str, Any] | None:
        assert soakd.process is not None
        assert soakd.process.poll() is None, soakd.output
        endpoint = soakd.run_dir / "endpoint"
        if not (endpoint.exists() and endpoint.read_text().endswith("\n")):
            return None
        with urlopen(f"{endpoint.read_text().strip()}/status", timeout=30) as answer:  # noqa: S310  # what soakd has written
            shown: dict[str, Any] = json.load(answer)
        return shown if shown["phase"] == ev.Phase.SETTLING else None

    shown: dict[str, Any] = wait("the end of all loads", look, 100)
    (soakd.folder / "seen").touch()
    return shown


@pytest.mark.timeout(240)
def test_report_gives_the_numbers_that_the_live_run_printed(soakd: Soakd) -> None:  # the fixture
    soakd.start(soak(engines=last(soakd.folder)))
    live = shown_at_last(soakd)
    code = soakd.end(100)
    verdict = soakd.verdict()
    late = all(  # a machine that is too busy, for soakd itself or for a baseline
        "event loop once lagged" in reason["text"] or "the baseline is no measure" in reason["text"]
        for reason in verdict["reasons"]
    )
    assert (code, verdict["verdict"]) in {(0, "pass"), (3, "inconclusive") if late else (0, "pass")}, (
        soakd.output
    )
    phases = [event.phase for event in soakd.events(ev.PhaseEntered)]  # type: ignore[attr-defined]
    assert phases[1:3] == [ev.Phase.BASELINE, ev.Phase.SOAKING]
    assert [event.baseline for event in soakd.events(ev.RunStarted)] == [3.0]  # type: ignore[attr-defined]
    first = {name: (soakd.run_dir / name).read_text() for name in REPORTS}
    lines = [json.loads(line) for line in soakd.output.splitlines()]
    printed = next(line for line in lines if str(line.get("event", "")).startswith("verdict: "))

    for name in REPORTS:
        (soakd.run_dir / name).unlink()
    again = soakd.command("report", str(soakd.run_dir))

    assert again.returncode == code, again.stderr
    for name in REPORTS:
        assert (soakd.run_dir / name).read_text().replace(str(soakd.run_dir), "DIR") == first[name].replace(
            str(soakd.run_dir.resolve()), "DIR"
        )
    verdict = soakd.verdict()
    assert printed["event"] == f"verdict: {verdict['verdict']}"
    reasons = [f"{one['text']} (see {one['where']})" for one in verdict["reasons"]]
    assert printed.get("reasons", []) == reasons
    shown = " ".join(again.stdout.split())
    assert all(" ".join(reason.split()) in shown for reason in reasons)
    check_loads(live, verdict)
    assert live["episodes"]["closed"]["freeze"]["recovered"] == verdict["faults"]["freeze"]["recovered"] == 1
    both = soakd.command("report", str(soakd.run_dir), str(soakd.run_dir.resolve()))
    assert both.returncode == code, both.stderr
    (failures,) = [line for line in both.stdout.splitlines() if line.startswith("  failures  ")]
    load = verdict["loads"]["rpc"]
    assert failures.split()[1:] == [f"{load['failed'] + load['indeterminate']:,}"] * 2
    told = soakd.events(ev.VerdictReached)
    assert [event.verdict for event in told] == [verdict["verdict"]]  # type: ignore[attr-defined]
    assert verdict["episodes"][0]["failures_by_stage"]["during"] > 0
    windows = [event for event in soakd.events(ev.LoadWindow) if isinstance(event, ev.LoadWindow)]
    assert sum(part.ok for window in windows for part in window.slices) == verdict["loads"]["rpc"]["ok"]


def check_loads(live: dict[str, Any], verdict: dict[str, Any]) -> None:
    """Hold what was shown live of the loads against the report."""
    assert live["loads"].keys() == verdict["loads"].keys()
    for name, totals in live["loads"].items():
        judged = verdict["loads"][name]
        for count in ("scheduled", "ok", "failed", "indeterminate", "dropped", "late", "errors", "counters"):
            assert totals[count] == judged[count], (name, count)
        assert [totals[share] for share in ("p50", "p99")] == [
            judged["response_seconds"][share] for share in ("p50", "p99")
        ], name


@pytest.mark.timeout(240)
def test_a_lost_threshold_ends_the_run_at_once(soakd: Soakd, tmp_path: Path) -> None:  # the fixture
    lost = {"that": "failures == 0 in every 5s", "abort": True}
    loads = {**soak()["loads"], "stream": {"jetstream": "KEPT", "rate": "20/s"}}
    soakd.start(soak(duration="10m", baseline="1s", thresholds=[lost, "ok >= 1%"], loads=loads))
    assert soakd.end(100) == 1, soakd.output
    (ended,) = soakd.events(ev.RunEnded)
    assert isinstance(ended, ev.RunEnded)
    assert ended.reason is ev.EndReason.ABORT
    assert ended.detail.startswith("failures == 0 in every 5s is lost: seen ")
    rules = {reason["rule"] for reason in soakd.verdict()["reasons"]}
    assert {"aborted", "threshold"} <= rules
    assert (streams(soakd) / "KEPT").is_dir(), "evidence of a run that failed"


def streams(soakd: Soakd) -> Path:  # the fixture
    """Return where the embedded node keeps the streams of soakd's account."""
    return soakd.run_dir / "units" / "nats1" / "jetstream" / "SOAK" / "streams"


@contextmanager
def pages() -> Iterator[str]:
    """Answer every request over HTTP, at this URL."""

    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.timeout(240)
def test_every_kind_of_load_is_reported_as_it_was_shown_and_leaves_nothing(soakd: Soakd) -> None:
    line = json.dumps({"op": "put", "outcome": "ok", "ms": 3})
    with pages() as url:
        loads = {
            "asked": {"request": "echo", "responder": "built_in", "rate": "20/s"},
            "published": {"events": "seen", "rate": "20/s", "client": "make_before_break"},
            "stream": {"jetstream": "GONE", "rate": "20/s"},
            "store": {"event_store": "EVENTS", "rate": "20/s"},
            "registers": {"kv": "REGISTERS", "rate": "20/s"},
            "crew": {"claim": {"stream": "JOBS"}, "rate": "20/s", "jobs": 5},
            "pages": {"http": url, "burst": {"size": 10, "every": "1h"}},
            "program": {"command": f"echo '{line}'; exec sleep 60", "shell": True, "operations": "stdout"},
            "tests": {"command": "true", "pause": "200ms"},
        }
        soakd.start(
            soak(
                duration="1h",
                baseline="1s",
                engines=last(soakd.folder),
                faults={},
                loads=loads,
                thresholds=["ok >= 1%", OFTEN],
            )
        )
        wait("a use of each", lambda: soakd.used(*loads))
        soakd.run_out()
        live = shown_at_last(soakd)
        code = soakd.end(100)
    assert code in (0, 3), soakd.output
    first = {name: (soakd.run_dir / name).read_text() for name in REPORTS}
    verdict = soakd.verdict()
    assert all(load["ok"] for load in verdict["loads"].values()), verdict["loads"]
    assert verdict["loads"]["pages"]["scheduled"] == 10, "the first burst, whenever the load began"
    check_loads(live, verdict)

    again = soakd.command("report", str(soakd.run_dir))

    assert again.returncode == code, again.stderr
    assert {name: (soakd.run_dir / name).read_text() for name in REPORTS} == {
        name: text.replace(str(soakd.run_dir.resolve()), str(soakd.run_dir)) for name, text in first.items()
    }
    assert [*streams(soakd).glob("[!.]*")] == [], "what begins with a dot is being deleted"
