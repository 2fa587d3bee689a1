"""The restart policy, rule by rule and under crash loops of every shape."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from supervisor.values import Intensity
from supervisor.watch.restart import Action, Backoff, Decision, History, RestartPolicy

EXITS = [(0, None), (1, None), (255, None), (None, "SIGKILL"), (None, "SIGTERM")]


def make(**fields: object) -> RestartPolicy:
    return RestartPolicy.model_validate(fields)


def dice(seed: int = 1) -> random.Random:
    return random.Random(seed)  # noqa: S311  # replayable, not secret


policies = st.builds(
    make,
    restart=st.just("permanent"),
    delay=st.sampled_from(["0", "20ms", "3s"]),
    backoff=st.fixed_dictionaries(
        {
            "first": st.sampled_from(["10ms", "100ms", "1s", "20s"]),
            "factor": st.floats(1.1, 100),
            "max": st.sampled_from(["1s", "5s", "10s", "1h"]),
            "jitter": st.sampled_from(["0%", "10%", "50%"]),
        }
    ),
    intensity=st.sampled_from([None, "0 / 1s", "3 / 10s", "20 / 10m"]),
    stable_after=st.sampled_from(["1s", "10s", "1m"]),
)


@pytest.mark.parametrize(("code", "signal"), EXITS)
def test_who_crashed(code: int | None, signal: str | None) -> None:
    failure = (code, signal) != (0, None)
    assert make(restart="permanent").is_crash(code, signal)
    assert make(restart="transient").is_crash(code, signal) is failure
    assert make(restart="temporary").is_crash(code, signal) is failure


def test_temporary_is_never_restarted_and_never_given_up() -> None:
    policy, history = make(restart="temporary", intensity="1 / 10m"), History()
    for now in range(5):
        history, decision = policy.decide(history, now, 0.1, dice())
        assert decision == Decision(Action.LEAVE)
    assert not history.given_up


def test_the_first_restart_comes_after_the_delay_alone_and_then_it_backs_off() -> None:
    policy = make(
        delay="2s", backoff={"first": "1s", "factor": 3, "max": "8s", "jitter": "0%"}, intensity=None
    )
    history, delays = History(), []
    for now in range(6):
        history, decision = policy.decide(history, now, 0.5, dice())
        delays.append(decision.delay)
    assert delays == [2, 2 + 1, 2 + 3, 2 + 8, 2 + 8, 2 + 8]


def test_one_more_than_the_intensity_is_given_up_and_the_rest_is_left() -> None:
    policy, history, actions = make(intensity="3 / 10s"), History(), []
    for now in (0, 1, 2, 3, 4):
        history, decision = policy.decide(history, now, 0.5, dice())
        actions.append(decision.action)
    assert actions == [Action.RESTART] * 3 + [Action.GIVE_UP, Action.LEAVE]


def test_a_period_later_the_crashes_are_forgotten() -> None:
    policy, history = make(intensity="3 / 10s"), History()
    for now in (0, 1, 2, 10, 11, 12, 20):
        history, decision = policy.decide(history, now, 0.5, dice())
        assert decision.action is Action.RESTART, now


def test_a_unit_that_somebody_revived_is_watched_again_once_it_was_stable() -> None:
    policy, rng = make(intensity="0 / 10m", stable_after="5s"), dice()
    history, decision = policy.decide(History(), 0, 1, rng)
    assert decision.action is Action.GIVE_UP
    history, decision = policy.decide(history, 1, 4.9, rng)
    assert decision.action is Action.LEAVE
    history, decision = policy.decide(history, 20, 5, rng)
    assert decision.action is Action.GIVE_UP  # it counts anew, and 0 / 10m allows none
    assert history.failures == (20,)


def test_a_failed_start_counts_and_is_never_stable() -> None:
    policy, rng = make(stable_after="1s", intensity="1 / 10m"), dice()
    history, decision = policy.decide(History(), 0, None, rng)
    assert (history.consecutive, decision.action) == (1, Action.RESTART)
    history, decision = policy.decide(history, 1, None, rng)
    assert (history.consecutive, decision.action) == (2, Action.GIVE_UP)


@given(policies, st.lists(st.floats(0, 100), max_size=50), st.integers())
def test_the_counter_and_the_delay_in_any_sequence(
    policy: RestartPolicy, uptimes: list[float], seed: int
) -> None:
    history, now, row, rng = History(), 0.0, 0, dice(seed)
    for uptime in uptimes:
        now += uptime
        row = 1 if uptime >= policy.stable_after else row + 1
        history, decision = policy.decide(history, now, uptime, rng)
        assert history.consecutive == row
        extra = decision.delay - policy.delay if decision.action is Action.RESTART else 0.0
        assert 0 <= extra <= max(policy.backoff.max, 0) + 1e-9
        if decision.action is Action.RESTART and row == 1:
            assert decision.delay == policy.delay
        if policy.intensity:
            assert len(history.failures) <= policy.intensity.count + 1
            recent = sum(1 for time in history.failures if now - time < policy.intensity.period)
            assert (decision.action is Action.RESTART) == (
                not history.given_up and recent <= policy.intensity.count
            )
        else:
            assert (history.failures, decision.action) == ((), Action.RESTART)
        now += decision.delay


@given(policies, st.lists(st.floats(0, 0.999), min_size=1, max_size=5), st.integers())
def test_lives_too_short_to_be_stable_end_up_at_the_longest_backoff(
    policy: RestartPolicy, shares: list[float], seed: int
) -> None:
    policy = policy.model_copy(update={"intensity": None, "delay": 0.0})
    backoff, history, now, rng = policy.backoff, History(), 0.0, dice(seed)
    steps = math.log(max(backoff.max / backoff.first, 1)) / math.log(backoff.factor)
    crashes = int(steps) + 50
    for n in range(crashes):
        now += (uptime := shares[n % len(shares)] * policy.stable_after)
        history, decision = policy.decide(history, now, uptime, rng)
        now += decision.delay
    assert crashes <= steps + 4 + now / (backoff.max * (1 - backoff.jitter))


@given(st.lists(st.floats(0, 2), min_size=1, max_size=12), st.integers())
def test_no_pattern_of_lives_turns_fast_with_the_defaults(shares: list[float], seed: int) -> None:
    policy = make(intensity=None)
    history, now, rng, crashes = History(), 0.0, dice(seed), 300
    for n in range(crashes):
        now += (uptime := shares[n % len(shares)] * policy.stable_after)
        history, decision = policy.decide(history, now, uptime, rng)
        now += decision.delay
    assert crashes <= 12 + 0.6 * now


def test_the_defaults_bound_a_day_of_crash_loop() -> None:
    policy = make(intensity=None)
    history, now, crashes, rng = History(), 0.0, 0, dice()
    while now < 86_400:
        crashes += 1
        history, decision = policy.decide(history, now, 0.0, rng)
        now += decision.delay
    assert crashes < 9_600
    assert history.failures == ()


@given(st.integers(1, 10**9))
def test_the_backoff_never_overflows(consecutive: int) -> None:
    backoff = Backoff.model_validate({"first": "10ms", "factor": 100, "max": "1h", "jitter": "0%"})
    assert 0 <= backoff.delay(consecutive, dice()) <= 3600


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stable_after": "900ms"}, "expected at least 1s: it bounds how fast a crash loop can turn"),
        ({"backoff": {"max": "0s"}}, "expected at least 1s: it bounds how fast a crash loop can turn"),
        ({"backoff": {"first": "1ms"}}, "expected at least 10ms: it bounds how fast a crash loop can turn"),
        ({"backoff": {"factor": 1}}, "greater than or equal to 1.1"),
        ({"backoff": {"jitter": "60%"}}, "less than or equal to 0.5"),
        ({"restart": "always"}, "'permanent', 'transient' or 'temporary'"),
        ({"intensity": "20"}, "expected an intensity such as 20 / 10m"),
    ],
)
def test_what_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make(**fields)


def test_the_defaults() -> None:
    policy = make()
    assert (policy.intensity, policy.delay, policy.stable_after) == (Intensity(20, 600.0), 0, 10)
