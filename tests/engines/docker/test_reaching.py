"""How an engine is reached, and what becomes of a run when it is not: TLS, a lost stream of events, one call that hangs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from docker_client import NAME, SHELL, Client
from docker_engine import PrivateEngine, make_certificates
from docker_gate import gated
from docker_proxy import proxied
from docker_soak import PATIENCE, end, engine_of, new_name, running, said, soaking

from supervisor.engines.base import EngineError, Exit
from supervisor.engines.dockerd import api, life, units
from supervisor.engines.dockerd.api import Endpoint, connect
from supervisor.engines.dockerd.names import Which
from supervisor.engines.dockerd.news import Manner
from supervisor.engines.dockerd.tracker import UNTOLD, Tracker
from supervisor.journal.events import Cause, UnitCrashed, UnitExited, UnitRestarted, UnitStartFailed
from supervisor.journal.writer import JournalWriter
from supervisor.supervision import nursery

MEMORY = 256
"""Events that an engine remembers."""


@pytest.fixture
def secured(docker: Client) -> PrivateEngine:
    """An engine that listens behind TLS."""
    if not isinstance(docker, PrivateEngine):
        pytest.skip("the engine here is somebody's: it does not listen behind TLS for a test")
    return docker


async def test_a_soak_through_tls(secured: PrivateEngine, journal: JournalWriter) -> None:
    unit = new_name()
    running(secured, unit, host={"LogConfig": {"Type": "local"}})
    files = {name: str(secured.certificates / f"{name}.pem") for name in ("ca", "cert", "key")}
    async with soaking(journal, engine_of(secured, unit, host=secured.tcp, tls=files)) as soak:
        end(secured, unit)
        assert soak.last_words(await soak.crashed(unit)) == ["up"]


async def test_tls_by_the_variables_of_docker(
    secured: PrivateEngine, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = new_name()
    running(secured, unit)
    monkeypatch.setenv("DOCKER_HOST", secured.tcp)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(secured.certificates))
    assert (await engine_of(secured, unit, host=None).discover(journal.run_dir)).problems(Path()) == []
    monkeypatch.delenv("DOCKER_CERT_PATH")
    monkeypatch.setenv("HOME", str(journal.run_dir))
    (journal.run_dir / ".docker").symlink_to(secured.certificates)
    assert (await engine_of(secured, unit, host=None).discover(journal.run_dir)).problems(Path()) == []


async def test_who_cannot_be_trusted(secured: PrivateEngine, tmp_path: Path) -> None:
    make_certificates(tmp_path / "others")
    ours, others = secured.certificates, tmp_path / "others"
    for tls, why in (
        ({"ca": ours}, "certificate required|broke off|bad certificate"),
        ({"ca": others, "cert": ours, "key": ours}, "certificate verify failed"),
        ({"ca": ours, "cert": others, "key": others}, "certificate|broke off"),
        ({"ca": tmp_path}, "No such file"),
    ):
        files = {name: str(folder / f"{name}.pem") for name, folder in tls.items()}
        with pytest.raises(EngineError, match=why):
            await engine_of(secured, "any", host=secured.tcp, tls=files).discover(tmp_path)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ssh://me@somewhere", "expected unix://, tcp://.*ssh -N -L"),
        ("unix://no/such/socket", "expected unix:/// and the path of a socket"),
        ("tcp://127.0.0.1:docker", "as in tcp://10.0.0.7:2375"),
        ("tcp://:2375", "expected a host"),
        ("tcp://[::1", "as in tcp://10.0.0.7:2375"),
        ("unix:///no/such/socket", "start Docker, or say where it is"),
        ("tcp://127.0.0.1:1", "start Docker, or say where it is"),
    ],
)
async def test_an_engine_that_cannot_be_reached(url: str, why: str) -> None:
    with pytest.raises(EngineError, match=why):
        async with connect(Endpoint.of(None, None, {"DOCKER_HOST": url}), 5):
            raise AssertionError


async def test_the_stream_of_events_ends_and_the_engine_forgets_what_was_on_it(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    """A person's stop it remembers all the same where the unit has a restart policy, which it then does not follow."""
    unit, adopted, halted = new_name(), new_name(), new_name()
    running(docker, unit)
    running(docker, adopted, halted, host={"RestartPolicy": {"Name": "always"}})
    async with proxied(docker.url, tmp_path) as proxy:
        engine = engine_of(docker, unit, adopted, halted, host=proxy.url, own_policy="adopt")
        async with soaking(journal, engine) as soak:
            proxy.refuse("/events")
            begun = time.time()
            docker.call("POST", f"containers/{halted}/kill")
            end(docker, unit)
            for times in (1, 2):
                end(docker, adopted)
                await soak.until(lambda n=times: again(docker, adopted, n))
            await soak.until(lambda: docker.state(unit) == "exited")
            await make_noise(docker)
            assert not any("die" in remembered(docker, one, begun) for one in (unit, halted))
            assert not soak.of(UnitExited)
            proxy.go_on()
            crash = await soak.crashed(unit)
            assert (crash.signal, crash.facts["seen"]) == ("SIGKILL", "while the engine was away")
            assert soak.last_words(crash) == ["up"]
            crash = await soak.crashed(adopted)
            assert crash.facts["seen"].endswith("which has started it again 2 times meanwhile")
            assert soak.last_words(crash) == ["up"] * 2, "of the lives that ended unseen"
            end(docker, unit)
            await soak.crashed(unit, 2)
            assert [gone.cause for gone in soak.of(UnitExited, halted)] == [Cause.OUTSIDE]
            assert soak.fleet.status(halted).holder == "outside"
    assert docker.state(halted) == "exited"


def again(docker: Client, name: str, times: int) -> bool:
    seen = docker.inspect(name)
    return seen["RestartCount"] == times and bool(seen["State"]["Pid"]) and said(docker, name, times + 1)


async def make_noise(docker: Client) -> None:
    """Make more events than an engine remembers."""
    name = f"{NAME}-{new_name('noise')}"  # with what goes at the session's end
    for _ in range(MEMORY + 1):
        docker.call("POST", f"images/{SHELL}/tag", repo=name)
        await anyio.lowlevel.checkpoint()
    docker.call("DELETE", f"images/{name}")


def remembered(docker: Client, name: str, since: float) -> str:
    only = json.dumps({"container": [name]})
    found = docker.call("GET", "events", since=f"{since:.9f}", until=f"{time.time():.9f}", filters=only)
    return str(found)


@pytest.mark.parametrize("call", ["/start", "/logs", "/json"])
async def test_one_call_hangs(
    docker: Client, journal: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It is given up in its time, and made again where that may be; what happens to other units meanwhile is not held up."""
    monkeypatch.setattr(units, "START", 1.0)
    unit, other = new_name(), new_name()
    running(docker, unit, other, host={"LogConfig": {"Type": "local"}})
    async with proxied(docker.url, tmp_path) as proxy:
        async with soaking(journal, engine_of(docker, unit, other, host=proxy.url)) as soak:
            proxy.hold(f"{docker.inspect(unit)['Id']}{call}")
            with soak.hurried(unit, 1.0), anyio.fail_after(PATIENCE):
                end(docker, unit)
                await proxy.holds.wait()
            end(docker, other)
            assert soak.last_words(await soak.crashed(other)) == ["up"]
            crash = await soak.crashed(unit)
            assert crash.captured is (call != "/logs")
            assert not soak.of(UnitStartFailed)
            proxy.go_on()
        assert len(soak.of(UnitCrashed)) == len(soak.of(UnitRestarted)) == 2


async def test_the_look_after_an_event_hangs(
    docker: Client, journal: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream goes on, so nothing else tells of that life's end: Docker has started the unit again meanwhile."""
    monkeypatch.setattr(api, "AWAY", 0.1)
    unit = new_name()
    running(docker, unit, host={"RestartPolicy": {"Name": "always"}})
    async with proxied(docker.url, tmp_path) as proxy:
        engine = engine_of(docker, unit, host=proxy.url, own_policy="adopt")
        async with soaking(journal, engine) as soak:
            for times in (1, 2):
                proxy.hold(f"{docker.inspect(unit)['Id']}/json")
                with soak.hurried(unit, 0.3):
                    end(docker, unit)
                    await soak.until(proxy.holds.is_set)
                await soak.until(lambda n=times: again(docker, unit, n))
                assert soak.last_words(await soak.crashed(unit, times)) == ["up"] * times
                proxy.go_on()


async def test_the_socket_vanishes_and_comes_back(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    unit = new_name()
    running(docker, unit)
    async with (
        proxied(docker.url, tmp_path) as proxy,
        soaking(journal, engine_of(docker, unit, host=proxy.url)) as soak,
    ):
        for times in (1, 2):
            await soak.until(lambda n=times: said(docker, unit, n))
            proxy.vanish()
            end(docker, unit)
            await soak.until(lambda: docker.state(unit) == "exited")
            await anyio.sleep(0.5)
            assert len(soak.of(UnitExited)) == times - 1
            await proxy.appear()
            assert soak.last_words(await soak.crashed(unit, times)) == ["up"] * times
        assert not soak.of(UnitStartFailed)


async def test_the_engine_fails_whenever_it_is_asked_about_a_unit(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    """Events go on, and say how a unit ended; that Docker has started it again is seen once the engine tells."""
    unit, other = new_name(), new_name()
    running(docker, unit, other, host={"RestartPolicy": {"Name": "always"}})
    async with proxied(docker.url, tmp_path) as proxy:
        engine = engine_of(docker, unit, other, host=proxy.url, own_policy="adopt")
        async with soaking(journal, engine, delay="300ms") as soak:
            proxy.fail(f"{docker.inspect(unit)['Id']}/json")
            end(docker, unit)
            await soak.until(lambda: soak.of(UnitCrashed, unit))
            await soak.until(lambda: again(docker, unit, 1))
            end(docker, other)
            await soak.crashed(other)
            proxy.go_on()
            crash = await soak.crashed(unit)
            assert (crash.signal, crash.facts.get("seen")) == ("SIGKILL", None)
            assert soak.last_words(crash) == ["up"]
            end(docker, unit)
            assert soak.last_words(await soak.crashed(unit, 2)) == ["up"] * 2


async def test_a_life_that_came_and_went_while_the_engine_failed(docker: Client, tmp_path: Path) -> None:
    unit = new_name()
    docker.create(unit, "echo up; exit 3")

    async def recreated(*_: object) -> None:
        raise AssertionError

    async with (
        proxied(docker.url, tmp_path) as proxy,
        engine_of(docker, unit, host=proxy.url).docker.connect(tmp_path) as api,
        nursery() as group,
    ):
        tracker = Tracker(api, Which(names=(unit,)), Manner(True, False), group, recreated)
        await tracker.enlist((unit,))
        await tracker.follow()
        proxy.fail(f"{docker.inspect(unit)['Id']}/json")
        docker.start(unit)
        with anyio.fail_after(PATIENCE), tracker.news as news:
            while proxy.failures < 3 or docker.state(unit) != "exited":  # noqa: ASYNC110  # after either event, and once more
                await anyio.sleep(0.01)
            proxy.go_on()
            while not isinstance(gone := await news.receive(), Exit):
                pass
        assert (gone.code, gone.facts["seen"], gone.outside) == (3, UNTOLD, False)
        tracker.close()


@pytest.mark.parametrize("hours", [-2, 2])
async def test_the_clocks_differ(
    docker: Client, journal: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """What an engine on another machine calls now is not our now: no event is lost, no time of a life is off, nor a part of its log."""
    ahead = hours * 3600
    ours = SimpleNamespace(
        time=lambda: time.time() + ahead,
        time_ns=lambda: time.time_ns() + ahead * 1_000_000_000,
        monotonic=time.monotonic,
    )
    for module in (api, life, units):  # for all of this process it would be so for the test runner too
        monkeypatch.setattr(module, "time", ours)
    unit, adopted = new_name(), new_name()
    running(docker, unit)
    running(docker, adopted, host={"RestartPolicy": {"Name": "always"}})
    async with proxied(docker.url, tmp_path) as proxy:
        engine = engine_of(docker, unit, adopted, host=proxy.url, own_policy="adopt")
        async with soaking(journal, engine) as soak:
            began = soak.fleet.status(unit).observed.started
            assert began is not None
            assert 0 < time.monotonic() - began < 60
            proxy.vanish()
            for name in (unit, adopted):
                end(docker, name)
            await soak.until(lambda: again(docker, adopted, 1))
            await proxy.appear()
            for name in (unit, adopted):
                crash = await soak.crashed(name)
                assert crash.signal == "SIGKILL", (
                    "by the event, which was replayed: of this life nobody else knows"
                )
                assert crash.uptime is not None
                assert crash.uptime < 60
                assert soak.last_words(crash) == ["up"]
            await soak.until(lambda: said(docker, unit, 2))
            assert await soak.fleet.logs(unit, since=ours.time() - 60) == b"up\n" * 2
            assert await soak.fleet.logs(unit, since=ours.time() + 60) == b""
            assert await soak.fleet.logs(unit, until=ours.time() - 60) == b""


async def test_a_line_of_the_stream_that_is_no_event(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    """The stream is begun anew, and what has happened is seen by looking."""
    unit = new_name()
    running(docker, unit)
    with gated(docker.url, tmp_path) as gate:
        gate.torn = [b'{"Type":"container","Acti\n', b'{"Type":"container","Action":"die"}\n']
        async with soaking(journal, engine_of(docker, unit, host=gate.url)) as soak:
            for times in (1, 2, 3):
                await soak.until(lambda n=times: said(docker, unit, n))
                end(docker, unit)
                assert soak.last_words(await soak.crashed(unit, times)) == ["up"] * times
    assert not gate.torn
