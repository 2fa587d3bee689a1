"""`python -m supervisor.demo SERVICE`: one service of the demo's system in the foreground; `check` looks whether they work."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from supervisor.demo import dispatcher, listener, prefill, transformer
from supervisor.demo.check import check
from supervisor.demo.system import connect, prepare
from supervisor.values import parse_duration

SERVICES = {
    "dispatcher": dispatcher.serve,
    "listener": listener.serve,
    "prefill": prefill.serve,
    "transformer": transformer.serve,
}


async def main(service: str, servers: list[str], wait: float) -> int:
    """Connect, make sure that the streams are there, and serve until something breaks."""
    nc = await connect(servers, service, wait)
    try:
        if service == "check":
            return 0 if await check(nc) else 1
        system = await prepare(nc)
        await SERVICES[service](system)
        return 0
    finally:
        await nc.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m supervisor.demo", description=__doc__)
    parser.add_argument("service", choices=[*SERVICES, "check"])
    parser.add_argument(
        "--servers",
        default=os.environ.get("SOAKD_NATS_URL", "nats://127.0.0.1:4222"),
        help="comma list of URLs; SOAKD_NATS_USER and SOAKD_NATS_PASSWORD say who we are",
    )
    parser.add_argument(
        "--wait",
        type=parse_duration,
        default=0.0,
        metavar="TIME",
        help="how long a broker that is not there yet is waited for, such as 30s",
    )
    arguments = parser.parse_args()
    # Where tracebacks go as well: of two streams nobody knows which was written first.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    sys.exit(asyncio.run(main(arguments.service, arguments.servers.split(","), arguments.wait)))
