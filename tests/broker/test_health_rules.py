"""The rules, on facts that were recorded from real servers, and on those changed where no real server could be brought to it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from health_states import RECORDED, recorded, told
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.broker.health import reports
from supervisor.broker.health.diagnosis import EXPLAINS, diagnose
from supervisor.broker.health.document import document
from supervisor.broker.health.facts import (
    Account,
    Api,
    Check,
    Facts,
    Greeting,
    Limits,
    Link,
    Monitored,
    Peer,
    Server,
    System,
)
from supervisor.broker.health.findings import Diagnosis, Finding, Health, Severity, count, listed, size
from supervisor.broker.health.roster import State

NAMES = sorted(file.stem for file in RECORDED.glob("*.json"))


def codes(facts: Facts) -> list[str]:
    return [finding.code for finding in diagnose(facts).findings]


def only(facts: Facts, code: str) -> Finding:
    diagnosis = diagnose(facts)
    assert [finding.code for finding in diagnosis.findings] == [code]
    return diagnosis.findings[0]


def with_servers(facts: Facts, change: Callable[[Server], Server]) -> Facts:
    """Change what all servers say of themselves, through both doors."""
    monitored = tuple(
        look.model_copy(update={"server": look.server and change(look.server)}) for look in facts.monitored
    )
    system = facts.system and facts.system.model_copy(
        update={"servers": tuple(change(server) for server in facts.system.servers)}
    )
    return facts.model_copy(update={"monitored": monitored, "system": system})


def with_server(facts: Facts, name: str, **update: Any) -> Facts:
    return with_servers(facts, lambda s: s.model_copy(update=update) if s.name == name else s)


def with_peer(facts: Facts, name: str, **update: Any) -> Facts:
    """Change what the others say of a peer."""

    def change(server: Server) -> Server:
        if server.meta is None:
            return server
        peers = tuple(p.model_copy(update=update) if p.name == name else p for p in server.meta.peers)
        return server.model_copy(update={"meta": server.meta.model_copy(update={"peers": peers})})

    return with_servers(facts, change)


def without_leader(facts: Facts) -> Facts:
    return with_servers(
        facts, lambda s: s.model_copy(update={"meta": s.meta and s.meta.model_copy(update={"leader": ""})})
    )


WELL = recorded("well")
LEADER = diagnose(WELL).picture.group.leader  # type: ignore[union-attr]  # it has one
FOLLOWER = next(name for name in ("n1", "n2", "n3") if name != LEADER)


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


def test_all_that_can_explain_is_a_finding_somewhere() -> None:
    known = {code for causes in EXPLAINS.values() for code in causes}
    rooms = (RECORDED.parents[2] / "supervisor/broker/health").glob("*_rules.py")
    sources = "".join(file.read_text() for file in rooms)
    assert {code for code in known if f'"{code}"' not in sources} == set()


# --- whole clusters --------------------------------------------------------------------------------------------------


def test_an_election_is_no_lost_quorum() -> None:
    facts = without_leader(WELL).model_copy(update={"api": Api(outcome="error", code=10008)})
    diagnosis = diagnose(facts)
    assert {f.code for f in diagnosis.findings} == {"no-leader", "10008"}
    assert "3 of 3 servers take part" in diagnosis.findings[0].what


def test_10008_by_a_leaving_leader_is_explained_by_it() -> None:
    facts = without_leader(recorded("lame-duck")).model_copy(update={"api": Api(outcome="error", code=10008)})
    found = next(f for f in diagnose(facts).findings if f.code == "10008")
    assert "lame duck" in found.cause


def test_10008_by_stale_consumers_is_explained_by_them() -> None:
    facts = recorded("stale-consumers").model_copy(update={"api": Api(outcome="silent", took=2.0)})
    found = next(f for f in diagnose(facts).findings if f.code == "silent")
    assert "120 ephemeral consumers" in found.cause


def test_10008_by_a_full_disk_is_explained_by_it() -> None:
    full = {"plain": Check(status=503, error="write error: write 1.blk: no space left on device")}
    facts = with_server(WELL, FOLLOWER, checks=full)
    assert only(facts, "disk-full").severity is Severity.CRITICAL
    facts = without_leader(facts).model_copy(update={"api": Api(outcome="error", code=10008)})
    found = next(f for f in diagnose(facts).findings if f.code == "10008")
    assert found.cause == f"the disk of {FOLLOWER} is full"


def test_10008_without_a_trace_says_so() -> None:
    facts = WELL.model_copy(update={"api": Api(outcome="error", code=10008)})
    assert only(facts, "10008").cause == "nothing that was seen explains it"
    blind = recorded("unseen").model_copy(update={"api": Api(outcome="error", code=10008)})
    found = next(f for f in diagnose(blind).findings if f.code == "10008")
    assert found.cause == "cannot be told from what was seen"


def test_servers_that_only_do_not_greet_are_a_likely_cause_where_nothing_else_is_seen() -> None:
    greeting = WELL.greetings[0]
    dead = [
        g.model_copy(update={"outcome": "refuses", "detail": "refuses connections", "name": "", "id": ""})
        for g in WELL.greetings[1:]
    ]
    facts = Facts(at=0, greetings=(greeting, *dead), link=WELL.link, api=Api(outcome="error", code=10008))
    found = {f.code: f for f in diagnose(facts).findings}
    assert found["10008"].cause == found["quorum-lost"].what
    assert found["quorum-lost"].what.startswith("quorum is lost: 1 of 3 servers of the soak file")
    assert "quorum-lost" not in codes(facts.model_copy(update={"api": WELL.api}))


def test_an_election_in_a_cluster_of_which_the_soak_file_names_a_part_is_no_lost_quorum() -> None:
    """Of two servers that are named one is frozen; there is a third, and both others are about to elect."""
    seen = recorded("no-leader")
    frozen = next(greeting for greeting in seen.greetings if greeting.outcome == "mute")
    other = next(greeting for greeting in seen.greetings if greeting.outcome == "greets")
    facts = seen.model_copy(update={"greetings": (frozen, other), "monitored": (), "system": None})
    found = {finding.code: finding for finding in diagnose(facts).findings}
    assert "quorum-lost" not in found
    assert found["silent"].cause == found["frozen"].what


def test_all_gone() -> None:
    dead = tuple(
        Greeting(address=f"127.0.0.1:{n}", outcome="refuses", detail="refuses connections") for n in (1, 2, 3)
    )
    facts = Facts(at=0, greetings=dead, link=Link(error="refused"), api=Api(outcome="unasked"))
    found = {f.code: f for f in diagnose(facts).findings}
    assert diagnose(facts).headline == "no server can be used"
    assert "(2 of them are enough)" in found["quorum-lost"].do
    assert "10008" not in found["gone"].what


def test_a_leader_that_is_cut_off_is_not_believed() -> None:
    """It still claims to lead, but has not heard of anybody for long; the other two have elected another one."""

    def change(server: Server) -> Server:
        assert server.meta is not None
        if server.name == LEADER:
            peers = tuple(Peer(name=p.name, current=True, silent=8.0) for p in server.meta.peers)
            return server.model_copy(update={"meta": server.meta.model_copy(update={"peers": peers})})
        leads = server.name == FOLLOWER
        peers = (
            tuple(
                Peer(name=p.name, current=p.name != LEADER, silent=8.0 if p.name == LEADER else 0.5)
                for p in server.meta.peers
            )
            if leads
            else server.meta.peers
        )
        return server.model_copy(
            update={"meta": server.meta.model_copy(update={"leader": FOLLOWER, "peers": peers})}
        )

    diagnosis = diagnose(with_servers(WELL, change))
    assert diagnosis.picture.group is not None
    assert diagnosis.picture.group.leader == FOLLOWER
    assert {"two-leaders", "unheard"} <= {f.code for f in diagnosis.findings}
    assert diagnosis.health is Health.DEGRADED


def test_versions_that_differ_are_only_a_note() -> None:
    facts = with_server(WELL, FOLLOWER, version="2.14.0")
    greetings = tuple(
        g.model_copy(update={"version": "2.14.0"}) if g.name == FOLLOWER else g for g in facts.greetings
    )
    facts = facts.model_copy(update={"greetings": greetings})
    assert only(facts, "versions").severity is Severity.NOTE
    assert diagnose(facts).health is Health.HEALTHY


# --- servers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "code"),
    [
        ({"lag": 240}, "behind"),
        ({"current": False, "silent": 0.4}, "behind"),
        ({"silent": 12.0}, "unheard"),
        ({"offline": True}, "unheard"),
        ({"current": False, "silent": 0.0}, "unheard"),
    ],
)
def test_a_peer_that_does_not_keep_up(peer: dict[str, Any], code: str) -> None:
    found = only(with_peer(WELL, FOLLOWER, **peer), code)
    assert (found.subject, found.severity) == (FOLLOWER, Severity.WARNING)


def test_a_short_lag_is_nothing() -> None:
    assert not codes(with_peer(WELL, FOLLOWER, lag=199, silent=4.0))


def test_a_server_without_jetstream_among_others() -> None:
    facts = with_server(WELL, FOLLOWER, jetstream=False, meta=None)
    found = only(facts, "jetstream-off")
    assert (found.subject, found.severity) == (FOLLOWER, Severity.WARNING)


@pytest.mark.parametrize(("used", "code"), [(89, None), (90, "store-nearly-full"), (100, "store-full")])
def test_stores_fill(used: int, code: str | None) -> None:
    server = next(look.server for look in WELL.monitored if look.server and look.server.name == FOLLOWER)
    assert server.store is not None
    for what in ({"used": used, "limit": 100}, {"memory_used": used, "memory_limit": 100}):
        store = server.store.model_copy(update=what)
        assert codes(with_server(WELL, FOLLOWER, store=store)) == ([code] if code else [])


def test_a_disk_fills() -> None:
    server = next(look.server for look in WELL.monitored if look.server and look.server.name == FOLLOWER)
    assert server.store is not None
    store = server.store.model_copy(update={"disk_free": 4, "disk_size": 100})
    assert only(with_server(WELL, FOLLOWER, store=store), "disk-nearly-full").severity is Severity.WARNING


def test_a_server_that_is_not_well_says_why_in_its_own_words() -> None:
    checks = {"plain": Check(status=503, error="JetStream stream 'SOAK > A' is not current")}
    found = only(with_server(WELL, FOLLOWER, checks=checks), "unwell")
    assert found.detail == "JetStream stream 'SOAK > A' is not current"


def test_a_starting_server_is_not_a_leaving_one() -> None:
    checks = {"plain": Check(status=500, error="failed to be ready for connections after 1ms: server")}
    for clients, code in ((0, "starting"), (2, "lame-duck")):
        assert code in codes(with_server(WELL, FOLLOWER, checks=checks, clients=clients))


def test_lame_duck_as_our_own_connection_was_told() -> None:
    link = WELL.link.model_copy(update={"server": FOLLOWER, "lame_duck": True})
    assert codes(WELL.model_copy(update={"link": link})) == ["lame-duck"]


def test_a_shut_door_of_a_server_that_is_up() -> None:
    greetings = tuple(
        g.model_copy(update={"outcome": "refuses", "detail": "refuses connections", "name": "", "id": ""})
        if g.name == FOLLOWER
        else g
        for g in WELL.greetings
    )
    assert only(WELL.model_copy(update={"greetings": greetings}), "door-shut").subject == FOLLOWER


def test_a_monitoring_port_that_is_silent_is_unknown_and_not_ill() -> None:
    monitored = tuple(
        Monitored(unit=look.unit, url=look.url, error="connection refused") if look.unit == FOLLOWER else look
        for look in WELL.monitored
    )
    facts = WELL.model_copy(update={"monitored": monitored})
    assert only(facts, "monitoring-port").severity is Severity.UNKNOWN
    assert diagnose(facts).health is Health.HEALTHY


def test_the_monitoring_port_of_a_server_that_has_another_name() -> None:
    monitored = tuple(
        Monitored(unit=f"unit{n}", url=look.url, error="connection refused")
        if n == 1
        else look.model_copy(update={"unit": f"unit{n}"})
        for n, look in enumerate(WELL.monitored)
    )
    facts = WELL.model_copy(update={"monitored": monitored})
    assert only(facts, "monitoring-port").subject == WELL.greetings[1].name


def test_too_many_consumers_to_count_are_unknown() -> None:
    facts = with_server(WELL, FOLLOWER, consumers=6000)
    assert only(facts, "consumers-uncounted").severity is Severity.UNKNOWN
    facts = with_server(WELL, FOLLOWER, consumers=600, uncounted="no answer in time")
    assert "no answer in time" in only(facts, "consumers-uncounted").means


# --- us --------------------------------------------------------------------------------------------------------------


def test_refused_credentials() -> None:
    link = Link(error="cannot use the broker at nats://127.0.0.1:1: 'Authorization Violation'; waited 1s")
    facts = WELL.model_copy(update={"link": link, "api": Api(outcome="unasked")})
    assert "refuse our credentials" in only(facts, "refused").what
    assert diagnose(facts).health is Health.UNHEALTHY


def test_a_connection_that_heals_is_no_dead_broker_and_no_healthy_one() -> None:
    facts = WELL.model_copy(
        update={"link": Link(error="n1 did not answer the canary"), "api": Api(outcome="silent", took=2)}
    )
    assert only(facts, "connection-lost").severity is Severity.WARNING


def test_the_system_account_refuses_us() -> None:
    facts = WELL.model_copy(update={"system": System(error="Authorization Violation")})
    found = only(facts, "system-account")
    assert found.severity is Severity.UNKNOWN
    assert "`system`" in found.do


def test_an_unexpected_error_is_told_in_its_own_words() -> None:
    api = Api(outcome="error", code=10002, detail="JetStream cluster not active")
    assert only(WELL.model_copy(update={"api": api}), "api-error").detail == "JetStream cluster not active"


@pytest.mark.parametrize(("streams", "code"), [(8, None), (9, "account-nearly-full"), (10, "account-full")])
def test_account_limits(streams: int, code: str | None) -> None:
    account = Account(tier="R3", streams=streams, limits=Limits(streams=10))
    facts = WELL.model_copy(update={"api": Api(outcome="answered", accounts=(account,))})
    assert codes(facts) == ([code] if code else [])
    assert not code or "in tier R3" in diagnose(facts).findings[0].what


def test_an_account_that_may_store_nothing_and_stores_nothing_is_well() -> None:
    account = Account(limits=Limits(memory=0, storage=0))
    assert not codes(WELL.model_copy(update={"api": Api(outcome="answered", accounts=(account,))}))


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
