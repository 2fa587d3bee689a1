"""The clean twins of known-bad systems pass every time: three times in a row here, ten times with `scripts/prove_known_bad`."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest
from known_bad import soaked
from nats_bench import NatsBench, honest
from test_claim import Dispatcher
from test_claim import load as claim
from test_event_store import honest_store
from test_http import Orders
from test_known_bad_messages import asked, on, relayed
from test_known_bad_stores import REGISTERS, appended
from test_known_bad_streams import store, stored
from test_known_bad_work import JOBS, claimed, ordered, told
from test_kv import load as kv

from supervisor.judge.verdict import Judgement

TWINS = int(os.environ.get("SOAKD_TWINS", "3"))
Twin = Callable[[NatsBench], Awaitable[Judgement]]
CLEAN: dict[str, Twin] = {
    "responder": lambda bench: asked(bench, honest, count=150),
    "relay": lambda bench: relayed(bench, on, count=150),
    "stream": lambda bench: stored(bench, store, count=100),
    "program": lambda bench: told(bench.bench, 'tell(outcome="ok", ms=1, id=str(n))'),
    "service": lambda bench: ordered(bench.bench, Orders()),
    "queue": lambda bench: claimed(bench.bench, Dispatcher(), claims=100),
    "stream of jobs": lambda bench: soaked(bench.bench, claim({"stream": "JOBS"}), JOBS, claims=100),
    "bucket of jobs": lambda bench: soaked(bench.bench, claim({"bucket": "JOBS"}), JOBS, claims=100),
    "registers": lambda bench: soaked(bench.bench, kv(), REGISTERS, ok=200),
    "event store": lambda bench: appended(bench, honest_store),
}


@pytest.mark.parametrize("twin", CLEAN)
async def test_the_clean_twin_passes_every_time(nats_bench: NatsBench, twin: str) -> None:
    for _ in range(TWINS):
        judgement = await CLEAN[twin](nats_bench)
        assert judgement.verdict == "pass", judgement.reasons
