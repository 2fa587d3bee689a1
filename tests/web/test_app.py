from __future__ import annotations

import aiohttp
import pytest

from supervisor.telemetry import metrics
from supervisor.telemetry.status import Status
from supervisor.web.app import EndpointError, serve


async def test_every_page_answers() -> None:
    status, ready = Status(), [False]
    async with (
        serve(status, metrics.registry(status), lambda: ready[0], "127.0.0.1", 0) as url,
        aiohttp.ClientSession() as http,
    ):

        async def get(path: str) -> tuple[int, str]:
            async with http.get(url + path, timeout=aiohttp.ClientTimeout(30)) as answer:
                return answer.status, await answer.text()

        assert await get("/healthz") == (200, "ok\n")
        assert await get("/readyz") == (503, "preflight\n")
        ready[0] = True
        assert (await get("/readyz"))[0] == 200
        assert "soakd_build_info" in (await get("/metrics"))[1]
        assert '"phase": "preflight"' in (await get("/status"))[1]
        assert "/metrics" in (await get("/"))[1]
        assert (await get("/nothing"))[0] == 404


async def test_a_taken_port_is_said_so() -> None:
    status = Status()
    registry = metrics.registry(status)
    async with serve(status, registry, lambda: True, "127.0.0.1", 0) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(
            EndpointError, match=rf"cannot open the endpoint on 127\.0\.0\.1:{port}: .*in use.*web\.port"
        ):
            async with serve(status, registry, lambda: True, "127.0.0.1", port):
                pass


async def test_ipv6_gives_a_usable_url() -> None:
    status = Status()
    async with serve(status, metrics.registry(status), lambda: True, "::1", 0) as url:
        assert url.startswith("http://[::1]:")
