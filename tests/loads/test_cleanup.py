from __future__ import annotations

from collections.abc import AsyncIterator

import nats
import nats.js.errors
import pytest
from load_bench import Bench, NatsServer, until
from nats.js import JetStreamContext

from supervisor.broker.connection import open_connections
from supervisor.broker.options import Broker
from supervisor.journal.events import LoadStopped
from supervisor.loads import cleanup

SHELL = {"shell": True}
CLEANUP = {"buckets": ["SUBSCRIPTIONS"], "streams": "stream.*[0-9]"}


@pytest.fixture
async def js(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(
        server.broker["servers"][0], user=server.broker["user"], password=server.broker["password"]
    )
    yield client.jetstream()
    await client.close()


@pytest.fixture
async def connected(bench: Bench, server: NatsServer) -> AsyncIterator[Bench]:
    async with open_connections(Broker.model_validate(server.broker), bench.journal) as connections:
        bench.connections = connections
        yield bench
        bench.connections = None


async def streams(js: JetStreamContext) -> set[str]:
    return {str(info.config.name) for info in await js.streams_info()}


async def test_what_tests_leave_behind_goes_and_what_was_there_stays(
    connected: Bench, js: JetStreamContext
) -> None:
    bucket = await js.create_key_value(bucket="SUBSCRIPTIONS")
    await bucket.put("old", b"kept")
    await js.add_stream(name="stream_old_1", subjects=["old"])
    go = connected.base / "go"
    script = f"while ! test -e {go}; do sleep 0.02; done; rm {go}"
    async with connected.running(command=script, cleanup=CLEANUP, **SHELL):
        await until((connected.journal.run_dir / "e2e.log").exists)  # the first iteration has begun
        await bucket.put("new", b"goes")
        await js.add_stream(name="stream_new_1", subjects=["new"])
        await js.add_stream(name="stream_fixed", subjects=["fixed"])
        go.touch()
        await until(lambda: connected.cleaned)
        assert await streams(js) == {"KV_SUBSCRIPTIONS", "stream_old_1", "stream_fixed"}
        with pytest.raises(nats.js.errors.KeyNotFoundError):
            await bucket.get("new")
        assert (await bucket.get("old")).value == b"kept"
        await js.add_stream(name="stream_new_2", subjects=["new"])
    first, last = connected.cleaned[0], connected.cleaned[-1]
    assert (first.load, first.streams, first.entries, first.error) == ("e2e", 1, 1, "")
    assert last.streams == 1, "what the last iteration leaves goes too"
    assert connected.counts["ok"] == 1


async def test_with_existing_everything_that_matches_goes(connected: Bench, js: JetStreamContext) -> None:
    await js.add_stream(name="stream_old_1", subjects=["old"])
    await connected.run(command="true", times=1, cleanup={"streams": "stream.*[0-9]", "existing": True})
    assert await streams(js) == set()
    assert sum(cleaned.streams for cleaned in connected.cleaned) == 1


async def test_a_broker_that_comes_back_is_waited_for(connected: Bench, server: NatsServer) -> None:
    async with connected.running(command="true", pause="100ms", cleanup=CLEANUP):
        await until(lambda: connected.cleaned)
        server.stop()
        count = len(connected.cleaned)
        await server.start()
        await until(lambda: len(connected.cleaned) >= count + 2)
    assert "failed" not in connected.counts
    stopped = [event for event in connected.events if isinstance(event, LoadStopped)]
    assert stopped == [LoadStopped(load="e2e"), LoadStopped(load="settled")]


async def test_a_broker_that_stays_away_is_recorded_and_fails_no_operation(
    connected: Bench, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.loads.command.LAST", 0.2)
    settings = {**CLEANUP, "timeout": "500ms"}
    async with connected.running(command="true", pause="100ms", cleanup=settings) as context:
        await until(lambda: connected.cleaned)
        server.stop()
        await until(lambda: any(cleaned.error for cleaned in connected.cleaned))
        context.recorder.flush()
        await connected.settle()
        ok = connected.counts["ok"]
        await until(lambda: sum(bool(cleaned.error) for cleaned in connected.cleaned) > 1)
    error = next(cleaned.error for cleaned in connected.cleaned if cleaned.error)
    assert error.startswith("cannot clean up for load e2e within 0.5s: ")
    assert connected.counts["ok"] > ok
    assert "failed" not in connected.counts


async def test_nothing_is_removed_before_it_is_known_what_was_there(
    connected: Bench, server: NatsServer, js: JetStreamContext
) -> None:
    await js.add_stream(name="stream_old_1", subjects=["old"])
    server.stop()
    async with connected.running(command="true", cleanup=CLEANUP):
        pass
    assert not connected.windows
    assert not connected.cleaned


async def test_a_broker_that_is_away_at_the_start_is_no_load(
    connected: Bench, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "PREPARE", 0.3)
    server.stop()
    with pytest.raises(cleanup.BrokerError, match=r"cannot clean up for load e2e within 0\.3s"):
        await connected.run(command="true", cleanup=CLEANUP)
