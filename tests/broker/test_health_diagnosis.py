"""What is told of recorded facts, and that of any others, however little was seen, there is a diagnosis."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from health_facts import FOLLOWER, NAMES, WELL, codes
from health_states import RECORDED, recorded, told
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.broker.health import reports
from supervisor.broker.health.diagnosis import diagnose
from supervisor.broker.health.document import document
from supervisor.broker.health.facts import Facts, Greeting, Monitored, System
from supervisor.broker.health.findings import Diagnosis, Health, Severity, count, listed, size
from supervisor.broker.health.roster import State


@pytest.mark.parametrize("name", NAMES)
def test_what_a_person_is_told(name: str) -> None:
    text = told(recorded(name))
    assert text == (RECORDED / f"{name}.txt").read_text(), "python tests/broker/health_states.py --text"
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", NAMES)
def test_the_document_is_json_and_can_be_judged_again(name: str) -> None:
    diagnosis = diagnose(recorded(name))
    again = json.loads(json.dumps(document(diagnosis)))
    assert again["health"] == diagnosis.health
    assert diagnose(Facts.model_validate(again["facts"])).findings == diagnosis.findings
    assert [server["name"] for server in again["servers"]] == [node.name for node in diagnosis.picture.nodes]


# --- any facts -------------------------------------------------------------------------------------------------------


@st.composite
def partly_seen(draw: st.DrawFn) -> tuple[str, Facts]:
    """Recorded facts of which some sources showed nothing."""
    name = draw(st.sampled_from(NAMES))
    facts = recorded(name)
    greetings = tuple(g for g in facts.greetings if draw(st.booleans())) or facts.greetings[:1]
    monitored = tuple(
        look
        if draw(st.booleans())
        else Monitored(
            unit=draw(st.sampled_from([look.unit, f"other-{look.unit}"])), url=look.url, error="no answer"
        )
        for look in facts.monitored
        if draw(st.booleans())
    )
    system = draw(st.sampled_from([facts.system, None, System(error="no answer")]))
    return name, facts.model_copy(update={"greetings": greetings, "monitored": monitored, "system": system})


@settings(deadline=None)
@given(partly_seen())
def test_whatever_is_not_seen_there_is_a_diagnosis(case: tuple[str, Facts]) -> None:
    name, facts = case
    diagnosis = diagnose(facts)
    order = [list(Severity).index(finding.severity) for finding in diagnosis.findings]
    assert order == sorted(order)
    assert diagnosis.headline
    assert max(map(len, told(facts).splitlines())) <= 80
    json.dumps(document(diagnosis))
    names = [node.name for node in diagnosis.picture.nodes]
    assert len(names) == len(set(names))
    if diagnose(recorded(name)).health is not Health.HEALTHY and diagnosis.health is Health.HEALTHY:
        assert Severity.UNKNOWN in {finding.severity for finding in diagnosis.findings}, names


@settings(deadline=None)
@given(partly_seen())
def test_seeing_less_never_loses_a_quorum(case: tuple[str, Facts]) -> None:
    name, facts = case
    if "quorum-lost" not in codes(recorded(name)):
        assert "quorum-lost" not in codes(facts)


@settings(deadline=None)
@given(st.permutations(range(3)), st.sets(st.integers(0, 2)))
def test_who_is_who_when_some_are_silent(order: list[int], silent: set[int]) -> None:
    """The soak file names servers and nodes in the same order; those that are down are paired by their places."""
    greetings = [WELL.greetings[i] for i in order]
    monitored = [WELL.monitored[i] for i in order]
    for i in silent:
        greetings[i] = Greeting(address=greetings[i].address, outcome="refuses", detail="refuses connections")
        monitored[i] = Monitored(unit=monitored[i].unit, url=monitored[i].url, error="connection refused")
    facts = WELL.model_copy(
        update={"greetings": tuple(greetings), "monitored": tuple(monitored), "system": None}
    )
    nodes = diagnose(facts).picture.nodes
    assert [node.name for node in nodes] == [f"n{WELL.monitored.index(WELL.monitored[i]) + 1}" for i in order]
    assert {i for i, node in enumerate(nodes) if node.state is State.GONE} == silent


# --- reading reports -------------------------------------------------------------------------------------------------

KEYS = sorted(set(re.findall(r'"([a-z_]+)"', Path(reports.__file__).read_text())))
"""What the reader looks for."""
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
READ: tuple[Callable[[Any, Any], object], ...] = (
    reports.server,
    lambda one, _: reports.consumers(one, "n1"),
    lambda one, _: reports.accounts(one),
)


@settings(deadline=None)
@given(st.sampled_from(READ), ANY, ANY)
def test_whatever_a_server_says_it_is_read_or_refused(
    read: Callable[[Any, Any], object], one: Any, other: Any
) -> None:
    with suppress(reports.NoReport):
        read(one, other)


# --- words -----------------------------------------------------------------------------------------------------------


def test_a_dead_server_goes_by_the_name_that_the_soak_file_has_for_its_unit() -> None:
    monitored = tuple(
        Monitored(unit="nats-b", called=look.unit, url=look.url, error="connection refused")
        if look.unit == FOLLOWER
        else look
        for look in WELL.monitored
    )
    facts = WELL.model_copy(update={"monitored": monitored, "greetings": WELL.greetings[:1]})
    node = next(node for node in diagnose(facts).picture.nodes if node.unit == "nats-b")
    assert node.name == FOLLOWER


@given(st.integers(0, 2**60))
def test_sizes_are_short(number: int) -> None:
    assert len(size(number)) <= 10


def test_words() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1024 * 1024 - 1, 10**12)] == [
        "0 B",
        "1023 B",
        "1.0 kB",
        "1.0 MB",
        "931 GB",
    ]
    assert (count(1, "server"), count(2, "entry", "entries"), count(1200, "loss", "losses")) == (
        "1 server",
        "2 entries",
        "1,200 losses",
    )
    assert (listed(["a"]), listed(["a", "b", "c"]), listed(["a", "b"], "or")) == ("a", "a, b and c", "a or b")


def test_a_diagnosis_without_findings_is_healthy() -> None:
    assert Diagnosis(diagnose(WELL).picture, ()).health is Health.HEALTHY
