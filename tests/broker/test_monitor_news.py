"""How the monitor tells what it sees: counts with examples, gauges, log lines."""

from __future__ import annotations

from dataclasses import replace

from supervisor.broker.monitor.gauges import SERIES, gauges
from supervisor.broker.monitor.news import APART, SAMPLES, News
from supervisor.broker.monitor.snapshot import Consumers, Stream
from supervisor.journal.events import (
    EntriesChanged,
    Event,
    LeaderChanged,
    StreamChanged,
    ViewChanged,
)
from supervisor.telemetry.metrics import GAUGES
from supervisor.telemetry.narrate import line

CREATED = "2026-01-01T00:00:00Z"


def test_a_flood_is_told_as_counts_with_a_few_examples() -> None:
    now, told = [0.0], list[Event]()
    news = News(told.append, lambda: now[0])
    for second in range(60):
        now[0] = float(second)
        for n in range(100):
            news.stream("created", f"s{second}-{n}")
            news.entry("B", ("put", "deleted")[n % 2], "k" * 500)
        news.flush()
    assert len(told) == 2 * 60 / APART
    first, second = [event for event in told if isinstance(event, StreamChanged)][:2]
    assert (first.count, second.count, len(second.streams), second.over) == (100, 1000, SAMPLES, 9.0)
    entries = [event for event in told if isinstance(event, EntriesChanged)][1]
    assert (entries.bucket, entries.put, entries.deleted, entries.vanished) == ("B", 500, 500, 0)
    assert len(entries.samples[0]) == 120
    news.flush(everything=True)
    assert sum(event.count for event in told if isinstance(event, StreamChanged)) == 6000


def test_gauges_are_few_and_the_rest_is_added_up() -> None:
    streams = {f"s{n}": Stream(f"s{n}", CREATED, 0, messages=n, bytes=10 * n, lag=n % 7) for n in range(1000)}
    streams["s5"] = replace(streams["s5"], quorum=False)
    known = {"s1": Consumers(0, durable=2, ephemeral=1, idle=1, pending=7, ack_pending=3, redelivered=1)}
    values = gauges([*streams, "unknown"], streams, known, {"B": 12})
    series = {key: value for key, value in values.items() if "stream_messages{" in key}
    assert len(series) == SERIES
    assert series['soakd_broker_stream_messages{stream="s999"}'] == 999
    assert sum(series.values()) == values["soakd_broker_messages"] == sum(range(1000))
    assert 'soakd_broker_stream_messages{stream="other"}' in series
    assert values["soakd_broker_streams"] == 1001
    assert values["soakd_broker_streams_without_quorum"] == 1
    assert values["soakd_broker_replica_lag_messages"] == 6
    assert values['soakd_broker_kv_entries{bucket="B"}'] == 12
    assert values['soakd_broker_consumers{type="durable"}'] == 2
    assert values["soakd_broker_consumer_pending_messages"] == 7


def test_a_vanished_stream_has_no_series() -> None:
    assert not any("stream_messages" in key for key in gauges([], {}, {}, {}))


def test_every_gauge_has_a_help_text() -> None:
    values = gauges(["S"], {"S": Stream("S", CREATED, 0)}, {}, {"B": 1})
    assert {key.partition("{")[0] for key in values} <= GAUGES.keys()


def test_what_somebody_should_read_at_once_is_a_log_line() -> None:
    assert line(LeaderChanged(change="elected", of="stream", groups=("A: n1",))) is None
    lost = LeaderChanged(change="quorum-lost", of="stream", count=2, groups=("A", "B"))
    assert line(lost) == ("warning", "quorum lost: 2 stream(s)", {"groups": "A, B"})
    assert line(lost.model_copy(update={"change": "quorum-regained"})) == (
        "info",
        "quorum regained: 2 stream(s)",
        {"groups": "A, B"},
    )
    assert line(ViewChanged(complete=True)) == ("info", "all of the broker can be seen", {})
    assert line(ViewChanged(complete=False, why="silence")) == (
        "warning",
        "not all of the broker can be seen",
        {"why": "silence"},
    )
    assert line(StreamChanged(change="created", streams=("A",))) is None
    assert line(StreamChanged(change="reset", streams=("A",))) == (
        "warning",
        "1 stream(s) in memory lost their content",
        {"streams": "A"},
    )
