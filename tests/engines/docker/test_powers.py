"""What the docker engine offers to faults beyond start, stop and kill; the contract suite covers pause."""

from __future__ import annotations

import pytest
from docker_client import LABEL, Client
from docker_soak import IDLE, engine_of, new_name

from supervisor.engines.base import EngineContext, EngineError
from supervisor.engines.capabilities import CanDisconnect, CanExecute, CanLimit, CanPause
from supervisor.journal.writer import JournalWriter


async def test_powers(docker: Client, journal: JournalWriter) -> None:
    unit, network = new_name(), new_name("network")
    docker.call("POST", "networks/create", {"Name": network, "Internal": True, "Labels": {LABEL: "true"}})
    docker.create(
        unit,
        IDLE,
        host={"NetworkMode": network, "Memory": 50_000_000},
        NetworkingConfig={"EndpointsConfig": {network: {"Aliases": ["known-as"]}}},
    )
    docker.start(unit)
    engine = await engine_of(docker, unit).discover(journal.run_dir)
    context = EngineContext("docker", new_name("run"), journal.run_dir, journal.run_dir, journal)
    async with engine.open(context) as units:
        assert isinstance(units, CanPause)
        assert isinstance(units, CanExecute)
        said = await units.execute(unit, ["sh", "-c", "echo out; echo err >&2; exit 7"], 10)
        assert (said[0], sorted(said[1].splitlines())) == (7, [b"err", b"out"])
        with pytest.raises(EngineError, match="did not end within"):
            await units.execute(unit, ["sleep", "10"], 0.2)

        assert isinstance(units, CanDisconnect)
        before = await units.networks(unit)
        await units.disconnect(unit, network)
        await units.disconnect(unit, network)
        assert await units.networks(unit) == {}
        await units.connect(unit, network, before[network])
        await units.connect(unit, network, before[network])
        aliases = docker.inspect(unit)["NetworkSettings"]["Networks"][network]["Aliases"]
        assert "known-as" in aliases

        assert isinstance(units, CanLimit)
        found = await units.limits(unit)
        assert found["Memory"] == 50_000_000
        await units.limit(
            unit, {"Memory": 20_000_000, "MemorySwap": 20_000_000, "CpuQuota": 10_000, "CpuPeriod": 100_000}
        )
        assert (await units.limits(unit))["CpuQuota"] == 10_000
        await units.limit(unit, found)
        assert await units.limits(unit) == found
        with pytest.raises(EngineError, match=f"cannot limit {unit}"):
            await units.limit(unit, {"Memory": 1})
