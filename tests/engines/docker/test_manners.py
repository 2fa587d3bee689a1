"""How the docker engine gets on with others: people, restart policies, other runs; and that all is as it was in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from docker_client import LABEL, Client
from docker_proxy import proxied
from docker_soak import (
    IDLE,
    PATIENCE,
    end,
    engine_of,
    new_name,
    policy,
    said,
    soak_file,
    soaking,
    up,
    wait_said,
    with_policy,
)

from supervisor.cli import main as soakd
from supervisor.engines.base import EngineError, UnitState
from supervisor.engines.fleet import Protected
from supervisor.journal.events import (
    Cause,
    UnitCrashed,
    UnitExited,
    UnitRestarted,
    UnitStarted,
    UnitStartFailed,
)
from supervisor.journal.writer import JournalWriter

ALWAYS = {"RestartPolicy": {"Name": "always"}}


# --- people ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["stop?t=0", "kill"])
async def test_what_a_person_stops_stays_down_until_he_starts_it(
    docker: Client, journal: JournalWriter, call: str
) -> None:
    unit = up(docker)
    async with soaking(journal, engine_of(docker, unit)) as soak:
        docker.call("POST", f"containers/{unit}/{call}")
        await soak.until(lambda: soak.of(UnitExited, unit))
        assert soak.of(UnitExited, unit)[0].cause is Cause.OUTSIDE
        assert soak.fleet.status(unit).holder == "outside"
        docker.start(unit)
        await soak.until(lambda: soak.fleet.status(unit).observed.state is UnitState.UP)
        assert soak.of(UnitStarted, unit)[-1].by == "outside"
        end(docker, unit)
        await soak.until(lambda: soak.of(UnitCrashed, unit))
        await soak.until(lambda: soak.fleet.status(unit).observed.state is UnitState.UP)
    assert not [event for event in soak.of(UnitRestarted) if event.downtime < 0]


async def test_what_a_person_stops_is_kept_up_if_that_is_wanted(
    docker: Client, journal: JournalWriter
) -> None:
    unit = up(docker)
    async with soaking(journal, engine_of(docker, unit, outside="heal")) as soak:
        docker.call("POST", f"containers/{unit}/stop", t=0)
        await soak.until(lambda: soak.of(UnitRestarted, unit))
        assert soak.of(UnitExited, unit)[0].cause is Cause.OUTSIDE
        assert not soak.of(UnitCrashed)
    assert docker.state(unit) == "running"


async def test_what_a_person_pauses_is_not_healed(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    """Neither for the event, nor for what is found by looking once the engine was away."""
    unit = up(docker)
    async with (
        proxied(docker.url, tmp_path) as proxy,
        soaking(
            journal, engine_of(docker, unit, host=proxy.url, outside="heal", unhealthy="restart")
        ) as soak,
    ):
        before = soak.fleet.status(unit).observed.incarnation
        docker.call("POST", f"containers/{unit}/pause")
        await soak.until_seen(unit, UnitState.PAUSED)
        proxy.vanish()
        with pytest.raises(EngineError):
            await soak.fleet.logs(unit, last=1)
        await proxy.appear()
        await soak.until_seen(unit, UnitState.PAUSED)
        assert docker.state(unit) == "paused"
        docker.call("POST", f"containers/{unit}/unpause")
        await soak.until_seen(unit, UnitState.UP)
        assert soak.fleet.status(unit).observed.incarnation == before
        assert not soak.of(UnitExited)
    assert docker.state(unit) == "running"


async def test_what_is_down_stays_down_unless_it_is_to_be_started(
    docker: Client, journal: JournalWriter
) -> None:
    upper, lower = up(docker), new_name()
    docker.create(lower, IDLE)
    async with soaking(journal, engine_of(docker, upper, lower)) as soak:
        assert soak.fleet.status(lower).holder == "outside"
        assert docker.state(lower) == "created"
    async with soaking(journal, engine_of(docker, upper, lower, start=True, stop_timeout="1s")):
        assert docker.state(lower) == "running"
    assert (docker.state(upper), docker.state(lower)) == ("running", "exited")


async def test_an_unhealthy_unit_is_restarted_if_that_is_wanted(
    docker: Client, journal: JournalWriter
) -> None:
    unit = new_name()
    check = {"Test": ["CMD", "test", "!", "-e", "/tmp/ill"], "Interval": 50_000_000, "Retries": 1}  # noqa: S108
    docker.create(unit, f"rm -f /tmp/ill; {IDLE}", Healthcheck=check)
    docker.start(unit)
    async with soaking(journal, engine_of(docker, unit, unhealthy="restart", stop_timeout="1s")) as soak:
        made = docker.call("POST", f"containers/{unit}/exec", {"Cmd": ["touch", "/tmp/ill"]})  # noqa: S108
        docker.call("POST", f"exec/{made['Id']}/start", {"Detach": True})
        crash = await soak.crashed(unit)
        assert crash.facts["health"] == "unhealthy"


async def test_a_protected_unit_is_no_target(docker: Client, journal: JournalWriter) -> None:
    unit = up(docker, labels={"soakd.protect": "true"})
    async with soaking(journal, engine_of(docker, unit)) as soak:
        with pytest.raises(Protected):
            await soak.fleet.stop(unit, by="restart#1")


# --- restart policies ------------------------------------------------------------------------------------------------


def refused_run(folder: Path) -> str:
    """Begin a run that does not start, for a mistake in its soak file; return what was said."""
    command = [sys.executable, "-m", "supervisor", "run", "soak.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert not (folder / "runs").exists()
    return done.stderr


def test_a_policy_is_refused_as_wrong_input(
    docker: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default, or since the file says so; each unit that has one is named, at its place in the file."""
    units, without = [up(docker, host=ALWAYS), up(docker, host=with_policy("unless-stopped"))], up(docker)
    names = f'host: "{docker.url}", names: [{", ".join([*units, without])}]'
    assert soakd(["check", soak_file(tmp_path, f"own_policy: refuse, {names}")]) == 2
    assert capsys.readouterr().err.count(":4:14: engines.e.docker.own_policy: ") == len(units)
    assert soakd(["check", soak_file(tmp_path, f"own_policy: adopt, {names}")]) == 0
    file = soak_file(tmp_path, names)
    capsys.readouterr()
    assert soakd(["check", file]) == 2
    said, nothing = capsys.readouterr()[::-1]
    has = (
        "{}:4:5: engines.e.docker.own_policy: {} has a restart policy of its own, {}: set own_policy to adopt"
    )
    expected = [has.format(file, units[0], "always"), has.format(file, units[1], "unless-stopped")]
    assert sorted(line.partition(" or ")[0] for line in said.splitlines()) == sorted(expected)
    assert nothing == ""
    assert sorted(refused_run(tmp_path).splitlines()) == sorted(said.replace(file, "soak.yaml").splitlines())


def test_what_cannot_be_looked_at_is_said_and_not_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = soak_file(tmp_path, f'host: "unix://{tmp_path}/nobody.sock", names: [unit]')
    assert soakd(["check", file]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"{file}:3:3: engines.e: cannot look at its containers: cannot reach the Docker engine"
    )
    assert "cannot reach the Docker engine" in refused_run(tmp_path)


def test_a_unit_whose_crash_would_leave_nothing_is_worth_a_look(
    docker: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = {
        "gone": {"AutoRemove": True},
        "mute": {"LogConfig": {"Type": "none"}},
        "sent": {"LogConfig": {"Type": "syslog", "Config": {"cache-disabled": "true"}}},
        "copied": {"LogConfig": {"Type": "syslog"}},
        "plain": {},
    }
    units = {way: new_name(way) for way in (*ways, "unwatched")}
    for way, unit in units.items():
        docker.create(unit, IDLE, host=ways.get(way, ways["mute"]))
    file = soak_file(tmp_path, f'host: "{docker.url}", names: [{", ".join(units.values())}]')
    with Path(file).open("a") as more:
        more.write(f"watchdogs: [{{units: [{', '.join(units[way] for way in ways)}]}}]\n")
    assert soakd(["check", file]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"engines.e: {units['gone']} is removed as soon as it ends (--rm)" in said
    assert f"engines.e: {units['mute']} has the logging driver none" in said
    assert f"engines.e: {units['sent']} has the logging driver syslog" in said
    assert said.count("worth a look") == said.count("(--rm)") == 1
    assert said.count("keeps nothing to read") == 2


async def test_a_policy_is_adopted(docker: Client, journal: JournalWriter) -> None:
    unit = new_name()
    docker.create(unit, f"echo begin; {IDLE}", host=ALWAYS)
    docker.start(unit)
    async with soaking(journal, engine_of(docker, unit, own_policy="adopt")) as soak:
        for times in (1, 2):
            await soak.until(lambda n=times: said(docker, unit, n))
            end(docker, unit)
            crash = await soak.crashed(unit, times)
            assert soak.last_words(crash) == ["begin", "up"] * times, "its log ends with its life"
    assert docker.inspect(unit)["RestartCount"] == 2
    assert policy(docker, unit) == "always"


async def test_an_adopted_unit_in_a_crash_loop_loses_no_log(docker: Client, journal: JournalWriter) -> None:
    """Docker starts it again within 0.1 s at first, and the lives take a few milliseconds."""
    unit = new_name()
    count = "n=$(cat /tmp/n 2>/dev/null || echo 0); echo life $n; echo $((n + 1)) > /tmp/n"
    docker.create(unit, f"{count}; test $n -ge 5 && exec sleep 1000; exit 3", host=ALWAYS)
    async with soaking(
        journal, engine_of(docker, unit, own_policy="adopt", start=True, stop_timeout="1s")
    ) as soak:
        # Lives that were over before anybody could look have crashed like the others, but nobody has seen them up.
        await soak.until(lambda: len(soak.of(UnitCrashed, unit)) >= 5)
        await soak.until(lambda: soak.fleet.status(unit).observed.state is UnitState.UP)
        assert len(soak.of(UnitCrashed, unit)) == 5
        for number, crash in enumerate(soak.of(UnitCrashed, unit), 1):
            assert crash.code == 3
            assert soak.last_words(crash) == [f"life {n}" for n in range(number)]
        assert not soak.of(UnitStartFailed)
    assert docker.state(unit) == "exited"


async def test_a_policy_is_suspended_and_given_back(docker: Client, journal: JournalWriter) -> None:
    unit = up(docker, host=ALWAYS)
    async with soaking(journal, engine_of(docker, unit, own_policy="suspend")) as soak:
        assert policy(docker, unit) == "no"
        end(docker, unit)
        await soak.crashed(unit)
    assert policy(docker, unit) == "always"
    assert docker.inspect(unit)["RestartCount"] == 0


async def test_a_policy_that_comes_in_mid_run_is_suspended_as_well(
    docker: Client, journal: JournalWriter
) -> None:
    """By a container that takes another one's place, or by `docker update`, which is somebody's wish for the time after the run."""
    anew, updated = up(docker, host=ALWAYS), up(docker)
    async with soaking(journal, engine_of(docker, anew, updated, own_policy="suspend")) as soak:
        docker.remove(anew)
        docker.create(anew, IDLE, host=ALWAYS)
        docker.start(anew)
        await soak.until(lambda: policy(docker, anew) == "no")
        end(docker, anew)
        await soak.until(lambda: soak.of(UnitRestarted, anew))
        docker.call("POST", f"containers/{updated}/update", {"RestartPolicy": {"Name": "always"}})
        end(docker, updated)  # Docker starts it, and nobody else
        await soak.crashed(updated)
        assert docker.inspect(updated)["RestartCount"] == 1
    assert (policy(docker, anew), policy(docker, updated)) == ("always", "always")


async def test_a_container_that_comes_in_mid_run_gets_its_own_policy_back(
    docker: Client, journal: JournalWriter
) -> None:
    """Not that of the container whose place it took, which may have had another, or none."""
    policies = {"none": ("no", "always"), "other": ("always", "unless-stopped"), "gone": ("always", "no")}
    units = {case: up(docker, host=with_policy(old)) for case, (old, _) in policies.items()}
    engine = engine_of(docker, *units.values(), own_policy="suspend")
    async with soaking(journal, engine) as soak:
        for case, unit in units.items():
            docker.remove(unit)
            docker.create(unit, IDLE, host=with_policy(policies[case][1]))
            docker.start(unit)
            await soak.until(lambda u=unit: policy(docker, u) == "no")
    assert {case: policy(docker, unit) for case, unit in units.items()} == {
        case: new for case, (_, new) in policies.items()
    }


# --- these tests themselves ------------------------------------------------------------------------------------------


def test_cleaning_a_users_engine_leaves_what_others_have_there(docker: Client) -> None:
    """Who the others are is this session as a whole, which removes all of it even if this fails."""
    client, ours, others = Client(docker.url, new_name("soakd.test")), new_name(), new_name()
    client.create(ours, IDLE)
    docker.create(others, IDLE)
    locks = [f"soakd-lock-{name}" for name in (ours, others)]
    for lock in locks:
        docker.call("POST", "volumes/create", {"Name": lock, "Labels": {"soakd.lock": "true", LABEL: "true"}})
    assert client.clean() == locks[:1]
    assert docker.state(others) == "created"
    assert docker.call("GET", f"volumes/{locks[1]}")["Name"] == locks[1]


async def test_a_signal_that_only_asks_leaves_the_restart_policy_as_it_was(
    docker: Client, journal: JournalWriter
) -> None:
    """Docker starts no container again that it was asked to signal, with whatever: days later, when nobody thinks of soakd."""
    unit = new_name()
    docker.create(unit, "trap '' HUP; echo up; exec sleep 1000", host=ALWAYS)
    docker.start(unit)
    wait_said(docker, unit)
    async with soaking(journal, engine_of(docker, unit, own_policy="adopt")) as soak:
        await soak.fleet.kill(unit, by="reload#1", signal=signal.SIGHUP)
    end(docker, unit)
    with anyio.fail_after(PATIENCE):
        while docker.inspect(unit)["RestartCount"] != 1:  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.01)
