"""Containers that were recreated under another id while soakd was blind: nobody saw how the old one ended, and the new one is not it."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest
from anyio import to_thread
from docker_client import Client
from docker_engine import PrivateEngine
from docker_proxy import Proxy, proxied
from docker_soak import Soaking, end, engine_of, new_name, running, soaking
from test_reaching import make_noise, remembered

from supervisor.journal.events import Cause, UnitCrashed, UnitExited, UnitRestarted, UnitStarted
from supervisor.journal.writer import JournalWriter

GONE = "was removed, and its log with it"
NEW = "echo new; exec sleep 1000"
SHORT = "test -e /tmp/again && exec sleep 1000; touch /tmp/again; echo short; exit 3"


def recreate(docker: Client, unit: str, program: str = NEW) -> str:
    """What a person does with `docker rm -f` and `docker run`; return the new id."""
    docker.remove(unit)
    new = docker.create(unit, program)
    docker.start(unit)
    return new


@asynccontextmanager
async def blind(proxy: Proxy, docker: Client, how: str, *units: str) -> AsyncIterator[None]:
    """Keep soakd from seeing what happens to units, whose ends the engine then remembers only if the `socket` alone was away.

    The `stream` of events ends, and there are more than are remembered; or the `engine` is killed, whose containers live on.
    """
    begun = time.time()
    if how == "stream":
        proxy.refuse("/events")
        yield
        await make_noise(docker)
    else:
        proxy.vanish()
        with (
            docker.live_restore() if isinstance(docker, PrivateEngine) and how == "engine" else nullcontext()
        ):
            yield
            if isinstance(docker, PrivateEngine) and how == "engine":
                await to_thread.run_sync(docker.down, signal.SIGKILL)
                await to_thread.run_sync(docker.up)
    for unit in units:
        assert ("destroy" in remembered(docker, unit, begun)) is (how == "socket")
    if how == "stream":
        proxy.go_on()
    else:
        await proxy.appear()


async def arrives(soak: Soaking, unit: str, container: str) -> None:
    def there() -> bool:
        return (soak.fleet.status(unit).observed.incarnation or "").startswith(container[:12])

    await soak.until(there)
    assert [start.by for start in soak.of(UnitStarted, unit)][-1] == "outside"


def lives(soak: Soaking, unit: str) -> list[tuple[Cause, int | None, str | None]]:
    return [(gone.cause, gone.code, gone.signal) for gone in soak.of(UnitExited, unit)]


@pytest.mark.parametrize("how", ["stream", "engine"])
async def test_nobody_saw_how_the_old_one_ended(
    docker: Client, journal: JournalWriter, tmp_path: Path, how: str
) -> None:
    """Only somebody outside takes a container away; that it had crashed before, if it had, went with it."""
    if how == "engine" and not isinstance(docker, PrivateEngine):
        pytest.skip("the engine here is somebody's: it is not restarted for a test")
    lived, crashed = new_name("lived"), new_name("crashed")
    running(docker, lived, crashed)
    async with (
        proxied(docker.url, tmp_path) as proxy,
        soaking(journal, engine_of(docker, lived, crashed, host=proxy.url)) as soak,
    ):
        async with blind(proxy, docker, how, lived, crashed):
            end(docker, crashed)
            await soak.until(lambda: docker.state(crashed) == "exited")
            new = {unit: recreate(docker, unit) for unit in (lived, crashed)}
        for unit, container in new.items():
            await arrives(soak, unit, container)
            assert lives(soak, unit) == [(Cause.OUTSIDE, None, None)]
            assert (
                soak.of(UnitExited, unit)[0].facts["seen"]
                == f"while the engine was away: its container {GONE}"
            )
        assert not soak.of(UnitCrashed)
        await soak.until(lambda: GONE in mon(journal, lived))
        end(docker, await spoken(soak, docker, new[lived]))
        assert soak.last_words(await soak.crashed(lived)) == ["new"]


async def test_a_crash_that_the_engine_remembers_though_its_container_is_gone(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    """It has its code, and no log: that of the new one is not its own."""
    crashed, stopped = new_name("crashed"), new_name("stopped")
    running(docker, crashed, stopped)
    async with (
        proxied(docker.url, tmp_path) as proxy,
        soaking(journal, engine_of(docker, crashed, stopped, host=proxy.url)) as soak,
    ):
        async with blind(proxy, docker, "socket", crashed, stopped):
            end(docker, crashed)
            await soak.until(lambda: docker.state(crashed) == "exited")
            new = {unit: recreate(docker, unit) for unit in (crashed, stopped)}
            for container in new.values():
                await spoken(soak, docker, container)
        for unit, container in new.items():
            await arrives(soak, unit, container)
        assert lives(soak, crashed) == [(Cause.CRASH, None, "SIGKILL")]
        assert lives(soak, stopped) == [(Cause.OUTSIDE, None, "SIGKILL")]
        await soak.until(lambda: soak.of(UnitCrashed))
        (crash,) = soak.of(UnitCrashed)
        assert (crash.unit, crash.captured) == (crashed, False)
        assert GONE in soak.crash_file(crash)


async def test_the_old_one_is_still_there_or_the_new_one_has_crashed_as_well(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    """Each life has its own code and its own log, from its own container."""
    kept, short = new_name("kept"), new_name("short")
    running(docker, kept, short)
    async with (
        proxied(docker.url, tmp_path) as proxy,
        soaking(journal, engine_of(docker, kept, short, host=proxy.url)) as soak,
    ):
        async with blind(proxy, docker, "stream", short):
            end(docker, kept)
            await soak.until(lambda: docker.state(kept) == "exited")
            docker.call("POST", f"containers/{kept}/rename", name=new_name("old"))
            new = docker.create(kept, NEW)
            docker.start(kept)
            recreate(docker, short, SHORT)
            await soak.until(lambda: docker.state(short) == "exited")
            await spoken(soak, docker, new)
        await arrives(soak, kept, new)
        await soak.until(lambda: soak.of(UnitCrashed, kept))
        assert soak.last_words(soak.of(UnitCrashed, kept)[0]) == ["up"]
        assert lives(soak, kept) == [(Cause.CRASH, None, "SIGKILL")]
        assert soak.last_words(await soak.crashed(short)) == ["short"]
        assert lives(soak, short) == [(Cause.OUTSIDE, None, None), (Cause.CRASH, 3, None)]
        assert len(soak.of(UnitRestarted, short)) == 1


async def test_one_that_is_made_again_after_a_crash_that_was_seen(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    """Its watchdog still waits before it restarts it: the crash has its own log, and nothing else has ended."""
    unit = new_name()
    running(docker, unit)
    async with (
        proxied(docker.url, tmp_path) as proxy,
        soaking(journal, engine_of(docker, unit, host=proxy.url), delay="10m") as soak,
    ):
        end(docker, unit)
        await soak.until(lambda: soak.of(UnitCrashed))
        async with blind(proxy, docker, "stream", unit):
            new = recreate(docker, unit)
        await arrives(soak, unit, new)
        assert soak.last_words(soak.of(UnitCrashed)[0]) == ["up"]
        assert lives(soak, unit) == [(Cause.CRASH, None, "SIGKILL")]


def mon(journal: JournalWriter, unit: str) -> str:
    return (journal.run_dir / f"{unit}.mon.log").read_text()


async def spoken(soak: Soaking, docker: Client, container: str) -> str:
    def has(word: bytes = b"new\n") -> bool:
        return word in bytes(docker.call("GET", f"containers/{container}/logs", stdout=1) or b"")

    await soak.until(has)
    return container
