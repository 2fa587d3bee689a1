"""Containers that somebody removed or made anew under a fault whose run died: cut short, which is not healed, however they were found."""

from __future__ import annotations

import json
from pathlib import Path

from dead_run import started
from docker_client import Client
from docker_soak import IDLE, new_name

from supervisor.engines.base import EngineContext
from supervisor.engines.docker import DockerEngine
from supervisor.journal.events import EpisodeClosed, FaultIntent, Target
from supervisor.journal.replay import replay
from supervisor.journal.writer import JournalWriter, open_journal
from supervisor.recover import recover


async def test_one_of_a_label_that_is_gone_was_not_healed(
    docker: Client, tmp_path: Path, state_dir: Path, journal: JournalWriter
) -> None:
    del state_dir
    mark, names = new_name("mark"), [new_name(unit) for unit in ("gone", "anew", "same")]
    for name in names:
        docker.create(name, IDLE, {"mark": mark})
        docker.start(name)
    spec = {"docker": {"label": f"mark={mark}", "host": docker.url}}
    engine = await DockerEngine.model_validate(spec).discover(tmp_path)
    context = EngineContext("box", mark, tmp_path, tmp_path, journal)
    async with engine.open(context) as units:
        before = {name: one.incarnation for name, one in (await units.observe()).items()}
    for name in names:
        docker.call("POST", f"containers/{name}/pause")
    for name in names[:2]:
        docker.remove(name)
    docker.create(names[1], IDLE, {"mark": mark})
    docker.start(names[1])
    run = tmp_path / "dead"
    run.mkdir()
    soak = {
        "soak": "small",
        "engines": {"box": spec},
        "faults": {"freeze": {"pause": {"label": f"mark={mark}"}, "hold": "1h", "every": "1s"}},
    }
    (run / "soak.yaml").write_text(json.dumps(soak))
    # Two engines had a unit of that name: now there is one, which is still called as it was.
    ids = {name: f"box/{name}" if name == names[2] else name for name in names}
    async with open_journal(run) as dead:
        await dead.commit(
            started(
                mark,
                file=str(tmp_path / "soak.yaml"),
                units=tuple(ids.values()),
                engines=dict.fromkeys(ids.values(), "box"),
            )
        )
        await dead.commit(
            FaultIntent(
                episode="freeze#1",
                fault="freeze",
                type="pause",
                n=1,
                targets=tuple(Target(unit=ids[name], incarnation=before[name]) for name in names),
            )
        )
    (line,) = await recover(run)
    cut = f"{names[0]} vanished before undo; {names[1]} was replaced before undo"
    assert line.endswith(cut)
    closed = [one.event for one in replay(run) if isinstance(one.event, EpisodeClosed)]
    assert [one.truncated for one in closed] == [cut]
    assert docker.state(names[2]) == "running", "the one that is still there goes on"
