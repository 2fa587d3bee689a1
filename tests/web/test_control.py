"""The control endpoint: who may ask, what is refused, and what becomes of it when it meets a bug."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from supervisor.faults.operator import Answer, Refused
from supervisor.journal.events import TaskCrashed
from supervisor.journal.runs import RunIndex
from supervisor.journal.writer import JournalWriter
from supervisor.live.control import CannotControl, Way, WrongWords, ask, way_to
from supervisor.soakfile.errors import SoakFileError
from supervisor.supervision import Supervisor
from supervisor.web.control import Place, control
from supervisor.web.place import ADDRESS, SOCKET, TOKEN


class Person:
    """Stands for the operator: each answer as the test wants it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def overview(self) -> Answer:
        return {"faults": []}

    async def pause(self, seconds: float | None, *, finish: bool) -> Answer:
        self.asked.append((seconds, finish))
        return {"said": "paused"}

    async def resume(self) -> Answer:
        raise Refused("the faults are not paused")

    async def abort(self) -> Answer:
        raise ZeroDivisionError("a bug")


@asynccontextmanager
async def serving(place: Place, person: Person, journal: JournalWriter) -> AsyncIterator[None]:
    file = place.directory / (ADDRESS if place.token else SOCKET)
    async with anyio.create_task_group() as group:
        Supervisor(group, journal, lambda _: None).keep("control", lambda: control(person, place))  # type: ignore[arg-type]  # a stand-in
        with anyio.fail_after(30):
            while not file.exists():  # noqa: ASYNC110  # a file tells nobody
                await anyio.sleep(0.01)
        yield
        group.cancel_scope.cancel()
    assert not file.exists(), "it is there only as long as somebody answers"


async def test_a_socket_for_its_owner_alone_however_long_its_path(
    journal: JournalWriter, tmp_path: Path
) -> None:
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    person, way = Person(), Way("here", directory)
    async with serving(Place(directory), person, journal):
        mode = (directory / SOCKET).stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        assert await ask(way, "GET", "/faults") == {"faults": []}
        assert await ask(way, "POST", "/faults/pause", {"seconds": "30m"}) == {"said": "paused"}
        assert person.asked == [(1800.0, False)]
        with pytest.raises(CannotControl, match="not paused"):
            await ask(way, "POST", "/faults/resume")
        for body, said in (
            ({"seconds": "soon"}, "seconds: expected a duration"),
            ({"seconds": "0s"}, "seconds: expected more than 0"),
            ({"forever": True}, "forever: there is no such key"),
            ({"finish": "perhaps"}, "finish: expected true or false"),
        ):
            with pytest.raises(WrongWords, match=said):
                await ask(way, "POST", "/faults/pause", body)
        with pytest.raises(WrongWords, match="unit: it is missing"):
            await ask(way, "POST", "/units/hold", {})
        with pytest.raises(WrongWords, match="Not Found"):
            await ask(way, "POST", "/faults/explode")
        with pytest.raises(CannotControl, match="Too Large"):
            await ask(way, "POST", "/faults/pause", {"seconds": "1" * 100_000})
    with pytest.raises(CannotControl, match="cannot reach the run at here: no such file"):
        await ask(way, "GET", "/faults")
    with pytest.raises(CannotControl, match="cannot reach the run at there: connection refused"):
        await ask(Way("there", None, "http://127.0.0.1:1"), "GET", "/faults")


def test_which_run_is_meant_is_never_guessed(tmp_path: Path) -> None:
    index, file = RunIndex(tmp_path / "index"), tmp_path / "soak.yaml"
    file.write_text("soak: shop\n")
    with pytest.raises(CannotControl, match="no run goes on here"):
        way_to(None, index, {})
    with pytest.raises(CannotControl, match="no run of shop goes on here: start one with `soakd run "):
        way_to(str(file), index, {})
    with pytest.raises(CannotControl, match="no control endpoint: the run is over"):
        way_to(str(tmp_path), index, {})
    entries, runs = [], [tmp_path / name for name in ("one", "two")]
    try:
        for run in runs:
            entries.append(index.enter(run.name, run, "shop"))
            run.mkdir()
            (run / ADDRESS).write_text(f"http://127.0.0.1/{run.name}")
            if run is runs[0]:
                assert way_to(None, index, {}) == way_to(str(file), index, {}) == way_to(str(run), index, {})
        for what, told in ((None, "2 runs go on here"), (str(file), "2 runs of shop go on here")):
            with pytest.raises(WrongWords, match=told) as raised:
                way_to(what, index, {})
            assert all(str(run) in str(raised.value) for run in runs)
    finally:
        for entry in entries:
            entry.leave()


def test_a_soak_file_that_is_being_edited_leads_to_the_run_that_was_started_with_it(tmp_path: Path) -> None:
    index, file, other = RunIndex(tmp_path / "index"), tmp_path / "soak.yaml", tmp_path / "other.yaml"
    for one in (file, other):
        one.write_text("soak: shop\nduration: [half a li")
    run = tmp_path / "run"
    run.mkdir()
    entry = index.enter("run", run, "shop", file)
    try:
        os.mknod(run / SOCKET, stat.S_IFSOCK)
        assert way_to(str(file), index, {}) == way_to(str(run), index, {}) == Way(str(run), run)
        (run / SOCKET).unlink()
        (run / ADDRESS).write_text("http://127.0.0.1:1")
        assert way_to(str(file), index, {TOKEN: "sesame"}).token == "sesame"
        for path in (file, other):  # the token, or the name of the soak, has to be read
            with pytest.raises(SoakFileError):
                way_to(str(path), index, {})
        file.write_text("soak: cart\ncontrol: {port: 1, token: open-sesame}\n")
        assert way_to(str(file), index, {}).token == "open-sesame"
        other.write_text("soak: shop\n")
        assert way_to(str(other), index, {}).url == "http://127.0.0.1:1"
    finally:
        entry.leave()


async def test_a_port_needs_the_token(journal: JournalWriter, tmp_path: Path) -> None:
    async with serving(Place(tmp_path, "open sesame"), Person(), journal):
        url = (tmp_path / ADDRESS).read_text()
        assert url.startswith("http://127.0.0.1:")
        assert await ask(Way("here", None, url, "open sesame"), "GET", "/faults") == {"faults": []}
        for token in (None, "open", "open sesamé"):
            with pytest.raises(WrongWords, match="SOAKD_CONTROL_TOKEN"):
                await ask(Way("here", None, url, token), "GET", "/faults")


async def test_a_bug_is_told_journalled_and_the_endpoint_is_there_again(
    journal: JournalWriter, tmp_path: Path
) -> None:
    crashed = list[TaskCrashed]()
    journal.subscribe(
        lambda record: crashed.append(record.event) if isinstance(record.event, TaskCrashed) else None
    )
    way = Way("here", tmp_path)
    async with serving(Place(tmp_path), Person(), journal):
        with pytest.raises(CannotControl, match="a bug in soakd itself: ZeroDivisionError: a bug"):
            await ask(way, "POST", "/faults/abort")
        with anyio.fail_after(30):
            while True:
                try:
                    assert await ask(way, "GET", "/faults") == {"faults": []}
                    if crashed:
                        break
                except CannotControl:
                    await anyio.sleep(0.05)
    assert [(event.task, event.gave_up) for event in crashed] == [("control", False)]
