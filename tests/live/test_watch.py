"""The real program in a real terminal, against a real server and a real run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import nats
import pytest
from watch_terminal import PATIENCE, WHO, Watch

from supervisor.broker.ordered import INACTIVE
from supervisor.broker.ports import free_ports
from supervisor.live.sources import BUCKETS

pytestmark = pytest.mark.timeout(300)  # on a busy machine a Python takes long to start


def soakd(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "supervisor", "watch", *words],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=os.environ | more,
    )


async def test_a_broker_alone_in_a_terminal(server: str, watch: Watch) -> None:
    client = await nats.connect(server, user="admin", password="secret")
    js = client.jetstream()
    bucket = await js.create_key_value(bucket="SUBSCRIPTIONS")
    await js.add_stream(name="first", subjects=["first"])
    terminal = watch(server, env=WHO)
    await terminal.shows("first")
    await terminal.shows("HEALTHY")
    await terminal.shows("keys 0")
    await bucket.put("alpha.one", b"1")
    await terminal.shows(lambda text: re.search(r"^alpha\.one +1 +\d+s$", text, re.MULTILINE))
    await bucket.delete("alpha.one")
    await terminal.shows(lambda text: re.search(r"^alpha\.one +2 deleted ", text, re.MULTILINE))
    await js.add_stream(name="second", subjects=["second"])
    await terminal.shows(lambda text: re.search(r"^second +0 ", text, re.MULTILINE))
    await js.delete_stream("second")
    await terminal.shows(lambda text: re.search(r"^second .*deleted$", text, re.MULTILINE))
    terminal.press("/fir")
    await terminal.shows(lambda text: "/fir" in text and "KV_SUBSCRIPTIONS" not in text)
    terminal.press("\r\t")
    await terminal.shows("tab entries")
    assert terminal.sent.count("\x1b[2J") == 1  # drawn whole once, and by changed lines from then on
    terminal.press("q")
    assert terminal.ends() == 0
    assert terminal.sent.endswith("\x1b[?1049l")
    assert "Traceback" not in terminal.sent
    with anyio.fail_after(INACTIVE - 1):  # before the server would do it
        while await js.consumers_info("KV_SUBSCRIPTIONS"):  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.05)
    await client.close()


async def test_more_buckets_than_are_followed_and_those_that_come_and_go(server: str, watch: Watch) -> None:
    client = await nats.connect(server, user="admin", password="secret")
    js = client.jetstream()
    for n in range(BUCKETS + 3):
        bucket = await js.create_key_value(bucket=f"B{n:02}")
        await bucket.put(f"key-of-{n:02}", b"1")
    terminal, named = watch(server, env=WHO), watch(server, "--bucket", "B10", env=WHO)
    await terminal.shows(f"keys {BUCKETS} in {BUCKETS} of {BUCKETS + 3} buckets")
    await named.shows(f"keys 1 in 1 of {BUCKETS + 3} buckets")
    await named.shows("key-of-10")
    for n in range(1, BUCKETS + 3):
        await js.delete_key_value(f"B{n:02}")
    await terminal.shows(lambda text: re.search(r"keys 1( |$)", text, re.MULTILINE) and "buckets" not in text)
    bucket = await js.create_key_value(bucket="LATE")
    await bucket.put("late.key", b"1")
    await terminal.shows("late.key")
    for one in (terminal, named):
        one.press("q")
        assert one.ends() == 0
    await client.close()


async def test_ctrl_c_ends_it_and_a_broker_that_is_away_is_said_so(watch: Watch) -> None:
    terminal = watch(f"nats://127.0.0.1:{next(free_ports())}")
    await terminal.shows("cannot use the broker")
    terminal.press("\x03")
    assert terminal.ends() == 0
    assert terminal.sent.endswith("\x1b[?1049l")


async def test_one_look_as_text_and_as_json(server: str) -> None:
    client = await nats.connect(server, user="admin", password="secret")
    await client.jetstream().add_stream(name="first", subjects=["first"])
    await client.jetstream().create_key_value(bucket="B")
    await client.close()
    done = await anyio.to_thread.run_sync(lambda: soakd(server, "--bucket", "B", **WHO))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^first +0 ", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout
    done = await anyio.to_thread.run_sync(lambda: soakd(server, "--json", **WHO))
    said = json.loads(done.stdout)
    assert {row["name"] for row in said["broker"]["streams"]} == {"first", "KV_B"}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing.yaml", "nothing.yaml: cannot read the soak file"),
        ("ftp://x:1", "expected a soak file, http://HOST:PORT or nats://HOST:PORT"),
        ("http://127.0.0.1:1", "cannot watch http://127.0.0.1:1: Connection refused"),
        ("http://127.0.0.1", "expected the endpoint of a run"),
        ("nats://me:hush@127.0.0.1:1", "credentials do not belong"),
        (None, "no run goes on here"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(what: str | None, said: str) -> None:
    done = soakd(*([what] if what else []))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "hush" not in done.stderr


def test_an_embedded_broker_without_its_run_is_not_there(tmp_path: Path) -> None:
    """As `soakd health` has it: nothing is wrong with the words, but there is nothing to see."""
    file = tmp_path / "soak.yaml"
    file.write_text(json.dumps({"soak": "small", "broker": {"embedded": {"nodes": 1}}}))
    done = soakd(str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert "no run of small goes on. Start one with `soakd run" in done.stderr


async def test_attached_to_a_run(tmp_path: Path, watch: Watch) -> None:
    soak = {
        "soak": "small",
        "broker": {"embedded": {"nodes": 1}, "monitor": {"buckets": ["B"]}},
        "engines": {"local": {"process": {"units": {"sleeper": {"command": ["sleep", "1000"]}}}}},
        "loads": {"ping": {"command": ["true"], "pause": "200ms"}},
        "faults": {"bounce": {"restart": ["sleeper"], "every": "1s"}},
    }
    file = tmp_path / "soak.yaml"
    file.write_text(json.dumps(soak))
    with (tmp_path / "output").open("wb") as output:
        run = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "supervisor", "run", str(file)], cwd=tmp_path, stdout=output, stderr=output
        )
    try:
        endpoint = tmp_path / "runs" / "small" / "latest" / "endpoint"
        deadline = time.monotonic() + PATIENCE
        while not (endpoint.exists() and endpoint.read_text().endswith("\n")):
            assert time.monotonic() < deadline, (tmp_path / "output").read_text()
            await anyio.sleep(0.05)
        alone, named = watch(), watch(str(file))
        for terminal in (alone, named):
            await terminal.shows(endpoint.read_text().strip())
            await terminal.shows(
                lambda text: all(
                    word in text
                    for word in ("soaking", "sleeper", "nats1", "HEALTHY", "there is no bucket B")
                )
            )
        await alone.shows(lambda text: re.search(r"bounce [1-9]\d* closed", text))
        said = json.loads((await anyio.to_thread.run_sync(lambda: soakd("--json"))).stdout)
        assert said["run"]["soak"] == "small"
        assert said["broker"]["health"]["state"] == "healthy"
        named.press("q")
        assert named.ends() == 0
        run.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(lambda: run.wait(90)) in {0, 1, 3}
        await alone.shows("no answer for")
        assert not endpoint.exists()
        alone.press("q")
        assert alone.ends() == 0
    finally:
        if run.poll() is None:
            run.terminate()
            run.wait(90)
