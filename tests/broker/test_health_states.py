"""Real clusters, brought into every state: what is seen of them leads to the right words."""

from __future__ import annotations

import anyio
import pytest
from health_states import see_all

from supervisor.broker.health.diagnosis import diagnose
from supervisor.broker.health.facts import Facts
from supervisor.broker.health.findings import Diagnosis, Finding, Health, Severity

pytestmark = pytest.mark.timeout(
    150
)  # three clusters start, lose their quorum and notice it: about half a minute


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    return anyio.run(see_all, tmp_path_factory.mktemp("states"), backend_options={"use_uvloop": True})


def codes(diagnosis: Diagnosis, *severities: Severity) -> set[str]:
    return {f.code for f in diagnosis.findings if not severities or f.severity in severities}


def finding(diagnosis: Diagnosis, code: str) -> Finding:
    return next(f for f in diagnosis.findings if f.code == code)


def test_well(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["well"])
    assert (diagnosis.health, diagnosis.findings) == (Health.HEALTHY, ())
    nodes, group = diagnosis.picture.nodes, diagnosis.picture.group
    assert [node.name for node in nodes] == ["n1", "n2", "n3"]
    assert group is not None
    assert (set(group.present), group.absent, group.size) == ({"n1", "n2", "n3"}, (), 3)
    for node in nodes:
        assert node.version.startswith("2.")
        assert node.jetstream
        assert node.round_trip is not None
        assert 0 < node.round_trip < 2
        assert (node.peer is None) == (node.name == group.leader)
        assert node.peer is None or node.peer.current
        assert node.server is not None
        assert {check.status for check in node.server.checks.values()} == {200}
        assert len(node.server.checks) == 3
        assert node.server.store is not None
        assert node.server.store.limit > 0
        assert node.server.store.disk_free
    facts = seen["well"]
    assert facts.link.round_trip is not None
    assert facts.api.outcome == "answered"
    assert facts.api.accounts[0].limits.storage == -1
    assert facts.system is not None
    assert {server.name for server in facts.system.servers} == {"n1", "n2", "n3"}


def test_one_stopped(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["one-gone"])
    assert diagnosis.health is Health.DEGRADED
    assert codes(diagnosis) == {"gone"}
    gone = finding(diagnosis, "gone")
    assert "refuses connections" in gone.what
    assert "with one more loss JetStream stops" in gone.means
    assert gone.do.startswith(f"Start {gone.subject}")


def test_one_stopped_as_only_its_peers_know(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["one-silent"])
    assert codes(diagnosis) == {"gone"}
    assert "unheard by the meta leader" in finding(diagnosis, "gone").what
    assert len(diagnosis.picture.nodes) == 3


def test_lame_duck(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["lame-duck"])
    assert diagnosis.health is Health.DEGRADED
    assert "lame-duck" in codes(diagnosis, Severity.WARNING)
    assert not codes(diagnosis) & {"gone", "unwell", "starting", "jetstream-off"}
    assert "do not kill it" in finding(diagnosis, "lame-duck").do


def test_stale_consumers(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["stale-consumers"])
    assert diagnosis.health is Health.DEGRADED
    stale = finding(diagnosis, "stale-consumers")
    assert stale.what.startswith("120 ephemeral consumers")
    assert "LEFT" in stale.what


def test_quorum_lost_is_seen_before_the_servers_notice(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["quorum-going"])
    assert diagnosis.health is Health.UNHEALTHY
    lost = finding(diagnosis, "quorum-lost")
    assert "1 of 3 servers" in lost.what
    assert "2 are needed" in lost.what
    assert seen["quorum-going"].api.code == 0
    assert {"gone", "frozen"} <= codes(diagnosis, Severity.WARNING)


def test_quorum_lost_leads_to_10008(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["quorum-lost"])
    assert [f.code for f in diagnosis.findings[:2]] == ["quorum-lost", "10008"]
    assert finding(diagnosis, "10008").cause == finding(diagnosis, "quorum-lost").what
    assert "unwell" not in codes(diagnosis)  # /healthz says 503 because of it
    do = finding(diagnosis, "quorum-lost").do
    assert {"continue ", "Start "} <= {word for word in ("continue ", "Start ") if word in do}


def test_no_meta_leader_is_no_lost_quorum(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["no-leader"])
    assert diagnosis.health is Health.UNHEALTHY
    leaderless = finding(diagnosis, "no-leader")
    assert "2 of 3 servers take part" in leaderless.what
    assert "frozen" in codes(diagnosis, Severity.WARNING)
    assert leaderless.cause == finding(diagnosis, "frozen").what
    assert not codes(diagnosis) & {"quorum-lost", "10008", "no-responders", "gone"}
    assert diagnosis.picture.group is not None
    assert (diagnosis.picture.group.leader, diagnosis.picture.group.quorum) == ("", True)


def test_a_dead_leader_is_silence_at_first(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["leader-gone"])
    assert {"quorum-lost", "silent"} <= codes(diagnosis, Severity.CRITICAL)
    assert finding(diagnosis, "silent").cause == finding(diagnosis, "quorum-lost").what
    assert not codes(diagnosis) & {"10008", "no-responders"}


def test_storage_full(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["store-full"])
    assert codes(diagnosis, Severity.CRITICAL) == {"store-full"}
    assert "1.0 MB of 1.0 MB" in finding(diagnosis, "store-full").what


def test_jetstream_off_is_no_responders_and_not_10008(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["jetstream-off"])
    assert codes(diagnosis, Severity.CRITICAL) == {"jetstream-off", "no-responders"}
    assert finding(diagnosis, "no-responders").cause == finding(diagnosis, "jetstream-off").what


def test_jetstream_off_for_the_account(seen: dict[str, Facts]) -> None:
    assert codes(diagnose(seen["account-off"])) == {"10039"}


def test_alone(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["alone"])
    assert (diagnosis.health, diagnosis.findings, diagnosis.picture.group) == (Health.HEALTHY, (), None)


def test_what_cannot_be_seen_is_unknown(seen: dict[str, Facts]) -> None:
    diagnosis = diagnose(seen["unseen"])
    assert diagnosis.health is Health.HEALTHY
    assert codes(diagnosis) == codes(diagnosis, Severity.UNKNOWN) == {"not-looked"}
