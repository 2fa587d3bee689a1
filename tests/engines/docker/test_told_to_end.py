"""Containers that a run has told to end, and that go only once it is dead: they are ended and started, since nobody would do that later.

Docker starts no container again that it was asked to signal, whatever its restart policy. Here they never go by themselves, so a start
of a new life is recovery's. What has lived again since, and a person has stopped then, stays down.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

from dead_run import started
from docker_client import Client
from docker_soak import end, new_name, wait_said

from supervisor.engines.base import EngineContext
from supervisor.engines.docker import DockerEngine
from supervisor.journal.events import FaultIntent, FaultUndone, Target
from supervisor.journal.writer import JournalWriter, open_journal
from supervisor.recover import recover

SLOW = "trap '' USR2; echo up; exec sleep 1000"
UNITS = ("duck", "next", "down", "after", "killed", "halted")


async def test_what_was_told_to_end_before_the_death_is_started_after_it(
    docker: Client, tmp_path: Path, state_dir: Path, journal: JournalWriter
) -> None:
    del state_dir
    run, u = new_name("run"), {what: new_name(what) for what in UNITS}
    for name in u.values():
        docker.create(name, SLOW, host={"RestartPolicy": {"Name": "unless-stopped"}})
        docker.start(name)
    spec = {"docker": {"names": list(u.values()), "host": docker.url, "own_policy": "adopt"}}
    engine = await DockerEngine.model_validate(spec).discover(tmp_path)
    async with engine.open(EngineContext("box", run, tmp_path, tmp_path, journal)) as units:
        before = {name: one.incarnation for name, one in (await units.observe()).items()}
    for name in u.values():
        wait_said(docker, name)
    for what in ("duck", "down", "killed"):
        docker.call("POST", f"containers/{u[what]}/kill", signal=signal.SIGUSR2)
    end(docker, u["down"])  # it has gone already, and Docker leaves it at that
    docker.call("POST", f"containers/{u['halted']}/restart", t=0)
    docker.call("POST", f"containers/{u['halted']}/kill")
    faults = {
        "roll": {"rolling_lame_duck": [u["duck"], u["next"]]},
        "roll-too": {"rolling_lame_duck": [u["down"], u["after"]]},
        "kill": {"kill": [u["killed"], u["halted"]], "signal": "USR2"},
    }
    targets = {"roll": ["duck", "next"], "roll-too": ["down", "after"], "kill": ["killed", "halted"]}
    nodes = {u[what]: {"name": what} for what in UNITS[:4]}
    system = {"user": "sys", "password": "sys"}
    soak = {
        "soak": "small",
        "engines": {"box": spec},
        "broker": {"servers": ["127.0.0.1:1"], "system": system, "nodes": nodes},
        "faults": {name: {**keys, "every": "1s"} for name, keys in faults.items()},
    }
    (tmp_path / "dead").mkdir()
    (tmp_path / "dead" / "soak.yaml").write_text(json.dumps(soak))
    async with open_journal(tmp_path / "dead") as dead:
        ids = tuple(u.values())
        file = str(tmp_path / "soak.yaml")
        await dead.commit(started(run, file=file, units=ids, engines=dict.fromkeys(ids, "box")))
        for name, keys in faults.items():
            aimed = tuple(Target(unit=u[what], incarnation=before[u[what]]) for what in targets[name])
            intent = FaultIntent(episode=f"{name}#1", fault=name, type=next(iter(keys)), n=1, targets=aimed)
            await dead.commit(intent)
        # A kill is undone as soon as the signal is sent: the rest is its watchdog's, which is dead.
        await dead.commit(FaultUndone(episode="kill#1", by="run", attempts=1))
    assert len(await recover(tmp_path / "dead")) == len(faults)
    assert [what for what, name in u.items() if docker.state(name) != "running"] == ["halted"]
    async with engine.open(EngineContext("box", run, tmp_path, tmp_path, journal)) as units:
        after = {name: one.incarnation for name, one in (await units.observe()).items()}
    anew = {what for what, name in u.items() if what != "halted" and after[name] != before[name]}
    assert anew == {"duck", "down", "killed"}, "one at a time was told to go: the others are left alone"
