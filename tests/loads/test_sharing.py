"""Which loads several processes can share, and how the pace of one is divided among them."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from supervisor.kinds import take_in
from supervisor.loads.command import CommandLoad
from supervisor.loads.pace import Paced
from supervisor.loads.registry import LOADS
from supervisor.loads.request import RequestLoad


def load(**entry: Any) -> RequestLoad:
    return RequestLoad.model_validate({"request": "echo", "responder": "built_in", "processes": 3, **entry})


def test_a_load_of_ones_own_says_whether_it_can_be_shared(tmp_path: Path) -> None:
    source = (
        "from supervisor.loads.pace import Paced\n\nclass Own(Paced):\n    key = 'own'\n    shareable = %s\n"
        "    async def run(self, context): ...\n"
    )
    for shareable in (False, True):
        file = tmp_path / f"own{shareable}.py"
        file.write_text(source % shareable)
        kind, keys = LOADS.find({"python": f"{file.name}:Own", "rate": "10/s", "processes": 2}, tmp_path)
        with nullcontext() if shareable else pytest.raises(ValidationError, match="shareable = True"):
            kind.model_validate(keys)
    told = kind.file()
    assert told
    take_in(*told)
    file.write_text(file.read_text() + "\n")
    with pytest.raises(RuntimeError, match="has changed since the run began"):
        take_in(*told)


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValidationError, match="is a process of its own already; let the program start more"):
        CommandLoad.model_validate({"command": "true", "processes": 2})
    with pytest.raises(ValidationError, match="rate: a command sets its own pace"):
        CommandLoad.model_validate({"command": "true", "rate": "5/s"})
    with pytest.raises(ValidationError, match="2 workers are too few for 3 processes"):
        load(workers=2)
    with pytest.raises(ValidationError, match="burst: 2 at once are too few for 3 processes"):
        load(burst={"size": 2, "every": "1s"})
    with pytest.raises(ValidationError, match="in_flight: 2 are too few for 3 processes"):
        load(rate="10/s", in_flight=2)


PACES: list[dict[str, Any]] = [
    {"rate": "37/s"},
    {"ramp": [{"to": "50/s", "for": "20s"}, {"to": "10/s", "for": "5s"}]},
    {"burst": {"size": 10, "every": "700ms"}, "in_flight": 10},
    {"between": ["5ms", "40ms"]},
]


@settings(deadline=None)
@given(st.sampled_from(PACES), st.lists(st.floats(0, 40), min_size=2, max_size=9))
def test_shares_are_the_whole_whenever_each_begins(pace: dict[str, Any], begins: list[float]) -> None:
    shared: Paced = load(processes=len(begins), **pace)
    last, of = max(begins) + 1e-6, len(begins)

    def due(since: float, *share: int) -> list[float]:
        return [
            at
            for at in takewhile(
                lambda at: at < last + 10, shared.due(since, "seed", *share, first=min(begins))
            )
            if at > last
        ]

    whole = sorted(at for n in range(of) for at in due(last, n, of))
    assert sorted(at for n, since in enumerate(begins) for at in due(since, n, of)) == whole
    assert whole == due(last)
    if "burst" in pace:
        assert {whole.count(at) for at in whole} == {10}, "all at the same instants"
        assert all(shared.room(n, of) >= due(last, n, of).count(whole[0]) for n in range(of))


@given(st.integers(1, 9), st.integers(9, 500), st.integers(9, 500))
def test_workers_and_room_are_divided(of: int, workers: int, room: int) -> None:
    pace = load(workers=workers, in_flight=room, processes=of)
    assert sum(stage.workers for n in range(of) for stage in pace.crew(n, of)) == workers
    assert sum(pace.room(n, of) for n in range(of)) == room
