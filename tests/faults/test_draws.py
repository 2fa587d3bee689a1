from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from supervisor.faults.draws import draw, draws
from supervisor.faults.restart import Restart

UNITS = ["nats1", "nats2", "nats3", "nats4", "nats5"]
seeds = st.integers(0, 2**64)
names = st.text("abcdefghij-", min_size=1, max_size=12)
numbers = st.integers(1, 300)


def restart(**schedule: object) -> Restart:
    units = schedule.pop("units", {"of": UNITS, "pick": "minority"})
    return Restart.model_validate({"restart": units, **schedule})


@given(seeds, names, numbers)
def test_a_draw_comes_from_seed_fault_and_number_alone(seed: int, name: str, n: int) -> None:
    fault = restart(between=["5m", "15m"])
    first = draw(seed, name, fault, n)
    random.seed(n)
    second = draw(seed, name, fault, n)
    assert first is not None
    assert first == second
    assert first.episode == f"{name}#{n}"
    assert 300 <= first.delay <= 900
    assert fault.preview(first.rng(), ()) == fault.preview(first.rng(), ())


@given(seeds, names, numbers)
def test_targets_do_not_depend_on_the_schedule(seed: int, name: str, n: int) -> None:
    targets = set()
    for schedule in ({"every": "40s"}, {"between": ["1s", "2h"]}, {"at": ["1s"] * n}):
        fault = restart(**schedule)
        drawn = draw(seed, name, fault, n)
        assert drawn is not None
        targets.add(fault.preview(drawn.rng(), ()))
    assert len(targets) == 1


def test_draws_are_the_same_on_every_machine_and_in_every_version() -> None:
    fault = restart(between=["5m", "15m"])
    shown = [
        (round(preview.draw.delay, 3), preview.targets)
        for preview in draws({"rollout": fault}, 7, 4)["rollout"]
    ]
    assert shown == [
        (561.242, "nats1, nats2"),
        (517.372, "nats1, nats3"),
        (582.344, "nats2, nats5"),
        (596.818, "nats2, nats5"),
    ]


def test_other_faults_do_not_shift_draws() -> None:
    one, two = restart(between=["5m", "15m"]), restart(every="40s")
    assert draws({"a": one}, 7, 5)["a"] == draws({"b": two, "a": one}, 7, 5)["a"]
    assert draws({"a": one}, 7, 5)["a"] != draws({"a": one}, 8, 5)["a"]


def test_every_counts_from_the_start_of_the_soak_once_and_then_from_the_close() -> None:
    first, second = (preview.draw for preview in draws({"a": restart(every="40s")}, 7, 2)["a"])
    assert (first.delay, first.from_start, second.delay, second.from_start) == (40, True, 40, False)


def test_at_counts_from_the_start_of_the_soak_and_ends() -> None:
    fault = restart(at=["10m", "5m"])
    shown = [preview.draw for preview in draws({"a": fault}, 7, 9)["a"]]
    assert [(drawn.delay, drawn.from_start) for drawn in shown] == [(300, True), (600, True)]
    assert draw(7, "a", fault, 3) is None


def test_times_caps_what_check_shows() -> None:
    assert len(draws({"a": restart(every="1s", times=3)}, 7, 10)["a"]) == 3


def test_targets_that_only_the_run_can_tell_are_said_in_words() -> None:
    shown = draws(
        {
            "leader": restart(units={"leader_of": "ORDERS"}, every="1m"),
            "label": restart(units={"label": "tier=backend", "pick": "one"}, every="1m"),
            "all": restart(units=["nats1", "nats2"], every="1m"),
        },
        7,
        1,
    )
    assert {name: previews[0].targets for name, previews in shown.items()} == {
        "leader": "the leader of ORDERS",
        "label": "one of label tier=backend",
        "all": "nats1, nats2",
    }
