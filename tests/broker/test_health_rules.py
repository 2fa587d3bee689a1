"""The rules, on facts that were recorded from real servers, and on those changed where no real server could be brought to it."""

from __future__ import annotations

from typing import Any

import pytest
from health_facts import (
    FOLLOWER,
    LEADER,
    WELL,
    codes,
    only,
    with_peer,
    with_server,
    with_servers,
    without_leader,
)
from health_states import RECORDED, recorded

from supervisor.broker.health.diagnosis import EXPLAINS, diagnose
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
from supervisor.broker.health.findings import Health, Severity


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
