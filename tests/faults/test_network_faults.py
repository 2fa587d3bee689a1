"""partition and disconnect on real containers, with connections between them that work or do not."""

from __future__ import annotations

import os
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from docker_client import LABEL, Client
from docker_soak import engine_of, new_name, soaking
from real_units import kind
from scripted_fault import PATIENCE, Stage, free_and_up, until

from supervisor.engines.capabilities import CanDisconnect, CanExecute, CanPartition
from supervisor.engines.dockerd import packets
from supervisor.faults.draws import Draw
from supervisor.faults.limits import Bounds, Limits
from supervisor.faults.recovery import undo_open
from supervisor.journal.events import DrawSkipped, EpisodeClosed, FaultInjected, FaultIntent, UndoFailed
from supervisor.journal.writer import JournalWriter
from supervisor.soakfile.discovery import discovered
from supervisor.soakfile.load import load
from supervisor.soakfile.plan import warnings

PORT = 7000
ANSWERS = f"exec nc -ll -p {PORT} -e cat"


@dataclass
class Three:
    """Three containers on a network, each of which answers the others."""

    docker: Client
    stage: Stage
    names: dict[str, str]
    network: str
    key: str = "IPAddress"
    """Which of their addresses they are called by."""

    def address(self, unit: str) -> str:
        ends = self.docker.inspect(self.names[unit])["NetworkSettings"]["Networks"]
        return str(ends[self.network][self.key]) if self.network in ends else "192.0.2.1"

    async def reaches(self, one: str, other: str) -> bool:
        assert self.stage.fleet
        engine, name = self.stage.fleet.place(self.names[one])
        assert isinstance(engine, CanExecute)
        address = await to_thread.run_sync(self.address, other)
        command = f"nc -w 1 {address} {PORT} -e printf there"
        return (await engine.execute(name, ["sh", "-c", command], 60))[0] == 0

    async def reach(self, pairs: set[str]) -> None:
        """Wait until these reach each other and nobody else does: who comes back to a network is not known there at once."""
        with anyio.fail_after(PATIENCE):
            while await self.who_reaches_whom() != pairs:
                pass

    async def who_reaches_whom(self) -> set[str]:
        pairs = [(a, b) for a in "abc" for b in "abc" if a != b]
        found = set[str]()

        async def look(one: str, other: str) -> None:
            if await self.reaches(one, other):
                found.add(one + other)

        async with anyio.create_task_group() as group:
            for pair in pairs:
                group.start_soon(look, *pair)
        return found

    def answers_us(self, unit: str) -> bool:
        try:
            socket.create_connection((self.address(unit), PORT), 1).close()
        except OSError:
            return False
        return True

    def by_ipv6(self) -> Three:
        """The same, who call each other by their other addresses."""
        return replace(self, key="GlobalIPv6Address")

    async def by_both(self) -> list[set[str]]:
        """Who reaches whom over IPv4, and over IPv6."""
        found: list[set[str]] = [set(), set()]

        async def look(seen: set[str], one: Three) -> None:
            seen |= await one.who_reaches_whom()

        async with anyio.create_task_group() as group:
            for seen, one in zip(found, (self, self.by_ipv6()), strict=True):
                group.start_soon(look, seen, one)
        return found

    def rules(self, unit: str, program: str = "iptables") -> list[str]:
        pid = self.docker.inspect(self.names[unit])["State"]["Pid"]
        command = ["nsenter", f"--net=/proc/{pid}/ns/net", program, "-w", "5", "-S"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return [line for line in done.stdout.splitlines() if not line.startswith("-P")]


ALL = {"ab", "ac", "ba", "bc", "ca", "cb"}
Opened = Callable[..., AbstractAsyncContextManager[Three]]


@pytest.fixture
def filters(docker: Client) -> None:
    """Packet filters, which are set in the container's network namespace from outside."""
    if os.geteuid() != 0 or not docker.url.startswith("unix:"):
        pytest.skip("packet filters take root, and an engine behind a socket of this machine")


@pytest.fixture
def three(docker: Client, stage: Stage, journal: JournalWriter) -> Opened:
    @asynccontextmanager
    async def opened(*, ipv6: bool = False) -> AsyncIterator[Three]:
        network, names = new_name("network"), {unit: new_name(unit) for unit in "abc"}
        made = Three(docker, stage, names, network)
        body = {"Name": network, "Internal": True, "Labels": {LABEL: "true"}}
        if ipv6:
            subnet = f"fd{uuid.uuid4().hex[:2]}:{uuid.uuid4().hex[:4]}::/64"
            body |= {"EnableIPv6": True, "IPAM": {"Config": [{"Subnet": subnet}]}}
        docker.call("POST", "networks/create", body)
        for unit, name in names.items():
            ends = {"EndpointsConfig": {network: {"Aliases": [f"{unit}-alias"]}}}
            docker.create(name, ANSWERS, host={"NetworkMode": network}, NetworkingConfig=ends)
            docker.start(name)
        async with soaking(journal, engine_of(docker, *names.values())) as soak:
            stage.fleet = soak.fleet
            with anyio.fail_after(60):
                while (await made.by_both() if ipv6 else [await made.who_reaches_whom()] * 2) != [ALL, ALL]:
                    pass
                while ipv6 and not await to_thread.run_sync(made.by_ipv6().answers_us, "a"):
                    pass
            yield made

    return opened


@pytest.mark.usefixtures("filters")
async def test_a_group_is_cut_off_from_all_others_and_nobody_else_notices(
    stage: Stage, three: Opened
) -> None:
    async with three(ipv6=True) as made:
        group = [made.names["a"], made.names["b"]]
        async with stage.running(cut=kind(partition=group, hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            assert await made.by_both() == [{"ab", "ba"}] * 2
            for one, program in ((made, "iptables"), (made.by_ipv6(), "ip6tables")):
                assert await to_thread.run_sync(one.answers_us, "a")
                assert any('--comment "soakd cut#1"' in rule for rule in made.rules("a", program))
            assert await scheduler.finish(PATIENCE) == ()
        assert await made.by_both() == [ALL, ALL]
        assert not any(made.rules(unit, program) for unit in "abc" for program in ("iptables", "ip6tables"))
        assert free_and_up(stage.fleet)  # type: ignore[arg-type]
    assert stage.watch.all(EpisodeClosed)[0].truncated == ""


@pytest.mark.usefixtures("filters")
async def test_one_is_cut_off_from_one_and_a_restart_cuts_the_episode_short(
    stage: Stage, three: Opened
) -> None:
    async with three() as made:
        one, other = made.names["a"], made.names["b"]
        fault = kind(partition=one, **{"from": [one, other]}, direction="out", hold="1h")
        async with stage.running(cut=fault) as scheduler:
            await stage.watch.until(FaultInjected)
            assert await made.who_reaches_whom() == ALL - {"ab", "ba"}
            assert not [rule for rule in made.rules("a") if "INPUT" in rule]
            fleet = stage.fleet
            assert fleet
            was = fleet.status(one).observed.incarnation
            await fleet.stop(one, by="operator", timeout=1)
            await fleet.start(one, by="operator")
            await until(lambda: fleet.status(one).observed.incarnation not in {None, was})
            assert made.rules("a") == []
            assert await scheduler.finish(PATIENCE) == ()
        assert (await stage.watch.until(EpisodeClosed)).truncated
    assert not stage.watch.all(UndoFailed)


async def test_a_unit_is_off_its_network_and_comes_back_under_its_names(stage: Stage, three: Opened) -> None:
    async with three() as made:
        one = made.names["a"]
        networks = made.docker.inspect(one)["NetworkSettings"]["Networks"]
        async with stage.running(off=kind(disconnect=one, hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            assert await made.who_reaches_whom() == {"bc", "cb"}
            assert not await to_thread.run_sync(made.answers_us, "a")
            assert await scheduler.finish(PATIENCE) == ()
        await made.reach(ALL)
        back = made.docker.inspect(one)["NetworkSettings"]["Networks"]
        assert list(back) == list(networks)
        assert "a-alias" in back[made.network]["Aliases"]


@pytest.mark.usefixtures("filters")
async def test_what_a_dead_run_left_is_undone_from_the_intent_alone_and_twice(
    stage: Stage, three: Opened
) -> None:
    async with three() as made:
        cut = kind(partition=made.names["a"], hold="1h")
        off = kind(disconnect=made.names["b"], network=made.network, hold="1h")
        world = stage.world
        intents = {}
        for name, fault in (("cut", cut), ("off", off)):
            aim = await fault.aim(world, Draw(1, name, 1, 0, from_start=True).rng())
            intent = FaultIntent(
                episode=f"{name}#1", fault=name, type=fault.key, n=1, targets=aim.targets, undo=aim.undo
            )
            await fault.undo(world, intent)  # before anything was injected: harmless
            await fault.inject(world, intent)
            intents[intent.episode] = intent
        assert await made.who_reaches_whom() == set()
        for _ in range(2):
            await undo_open(intents, {"cut": cut, "off": off}, world, stage.journal)
            await made.reach(ALL)
    assert not stage.watch.all(UndoFailed)


@pytest.mark.usefixtures("filters")
async def test_no_more_than_a_minority_of_the_broker_is_cut_off_by_faults_that_meet(
    stage: Stage, three: Opened
) -> None:
    async with three() as made:
        stage.bounds = Bounds(Limits.model_validate({}), frozenset(made.names.values()))
        async with stage.running(
            a=kind(partition=made.names["a"], hold="500ms"),
            b=kind(disconnect=made.names["b"], hold="500ms"),
        ):
            await stage.watch.until(EpisodeClosed, 2)
    order = [event.kind for event in stage.watch.events if event.kind in {"fault.intent", "fault.undone"}]
    assert order == ["fault.intent", "fault.undone"] * 2


@pytest.mark.usefixtures("filters")
async def test_a_kernel_without_ipv6_is_no_hindrance_where_there_is_none(
    stage: Stage, three: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("ip6tables", "ip6tables-restore"):
        (tmp_path / program).write_text("#!/bin/sh\necho 'no such table' >&2\nexit 3\n")
        (tmp_path / program).chmod(0o755)
    async with three() as made:
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert packets.lacks(ipv6=False) == ""
        assert packets.lacks(ipv6=True) == (
            "ip6tables cannot be used (no such table): run soakd as root, on a kernel with a packet filter"
        )
        async with stage.running(cut=kind(partition=made.names["a"], hold="1ms")):
            await stage.watch.until(EpisodeClosed)
        assert made.rules("a") == []
    assert not stage.watch.all(UndoFailed)


async def test_a_network_that_a_unit_is_not_on_skips_the_draw(stage: Stage, three: Opened) -> None:
    async with (
        three() as made,
        stage.running(off=kind(disconnect=made.names["a"], network="nowhere", hold="1s")),
    ):
        skipped = await stage.watch.until(DrawSkipped)
    assert skipped.reason == f"none of {made.names['a']} is on network nowhere"


@pytest.mark.usefixtures("filters")
async def test_what_is_missing_is_said_before_the_run(
    docker: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, file = new_name(), tmp_path / "soak.yaml"
    docker.create(name, "exec sleep 1000")
    file.write_text(
        f"soak: x\nengines: {{box: {{docker: {{names: [{name}], host: '{docker.url}'}}}}}}\n"
        f"faults:\n  cut: {{partition: {name}, hold: 1s, every: 1m}}\n"
    )
    loaded = await discovered(load(file, {}))
    said = warnings(loaded)
    assert said == [
        f"{file}:4:3: faults.cut: cannot partition {name}: its network mode is none: there is nothing that could be cut off"
    ]
    monkeypatch.setenv("PATH", "/nowhere")
    (said,) = warnings(loaded)
    assert "iptables, iptables-restore, ip6tables" in said
    assert said.endswith("missing on PATH: install iptables and util-linux")


@pytest.mark.usefixtures("filters")
async def test_a_container_in_the_machines_own_network_is_refused(
    docker: Client, journal: JournalWriter
) -> None:
    shared, alone = new_name(), new_name()
    for name, mode in ((shared, "host"), (alone, "none")):
        docker.create(name, "exec sleep 1000", host={"NetworkMode": mode})
        docker.start(name)
    engine = await engine_of(docker, shared, alone).discover(journal.run_dir)
    for name in (shared, alone):
        assert "there is nothing that could be cut off" in engine.lacks(CanPartition, name)
        assert engine.lacks(CanDisconnect, name) == ""
    own = packets.Namespace(1, docker.inspect(shared)["Id"])
    assert own.foreign()
    real = docker.inspect(shared)
    assert (
        packets.Namespace(real["State"]["Pid"], real["Id"]).foreign() == "its network is this machine's own"
    )
