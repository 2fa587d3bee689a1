"""The control endpoint: who may ask, what is refused, and what becomes of it when it meets a bug."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from supervisor.faults.operator import Answer, Refused
from supervisor.journal.events import TaskCrashed
from supervisor.journal.writer import JournalWriter
from supervisor.live.control import CannotControl, Way, WrongWords, ask
from supervisor.supervision import Supervisor
from supervisor.web.control import ADDRESS, SOCKET, Place, control


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
        with anyio.fail_after(10):
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
            ({"seconds": "0s"}, "seconds: .*greater than 0"),
            ({"forever": True}, "forever: "),
        ):
            with pytest.raises(WrongWords, match=said):
                await ask(way, "POST", "/faults/pause", body)
        with pytest.raises(WrongWords, match="Not Found"):
            await ask(way, "POST", "/faults/explode")
        with pytest.raises(CannotControl, match="Too Large"):
            await ask(way, "POST", "/faults/pause", {"seconds": "1" * 100_000})
    with pytest.raises(CannotControl, match="cannot reach the run at here"):
        await ask(way, "GET", "/faults")


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
        with anyio.fail_after(10):
            while True:
                try:
                    assert await ask(way, "GET", "/faults") == {"faults": []}
                    if crashed:
                        break
                except CannotControl:
                    await anyio.sleep(0.05)
    assert [(event.task, event.gave_up) for event in crashed] == [("control", False)]
