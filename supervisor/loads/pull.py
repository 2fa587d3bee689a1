"""Reads a stream by a durable pull consumer: one pull after the other on one subscription, each message acknowledged as it comes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import anyio
from nats.aio.msg import Msg

from supervisor.loads.clients import LoadClient, NotSentError

BATCH: Final = 500
EXPIRES: Final = 1.0
"""Seconds after which the server ends a pull by itself."""
SPARE: Final = 0.5
"""Seconds by which that may come late, before we pull again."""
_BODY: Final = json.dumps({"batch": BATCH, "expires": int(EXPIRES * 1e9)}).encode()

Take = Callable[[bytes, int, bool], None]


class Pull:
    """Pulls for ever; `take` is given payload, place in the stream, and whether it was delivered before."""

    def __init__(self, client: LoadClient, subject: str, take: Take) -> None:
        """`subject` is the API's for the next messages of the consumer."""
        self._client, self._subject, self._take = client, subject, take
        self._inbox = ""
        self._left = 0
        self._over = anyio.Event()

    async def open(self) -> None:
        """Subscribe."""
        self._inbox = self._client.nc.new_inbox()
        await self._client.subscribe(self._inbox, self._came)

    async def run(self) -> None:
        """Pull, for ever. A pull that is lost with its server is over when its time is."""
        while True:
            self._left, self._over = BATCH, anyio.Event()
            try:
                await self._client.publish(self._subject, _BODY, self._inbox)
            except NotSentError:
                await anyio.sleep(SPARE)
                continue
            with anyio.move_on_after(EXPIRES + SPARE):
                await self._over.wait()

    async def _came(self, msg: Msg) -> None:
        tokens = msg.reply.split(".")
        if tokens[:2] != ["$JS", "ACK"]:
            if msg.headers and msg.headers.get("Status") == "503":
                return  # nobody is there at present: the pull runs into its time limit
            self._over.set()
            return
        shift = 2 if len(tokens) > 9 else 0  # with the domain and the account's hash
        self._take(msg.data, int(tokens[5 + shift]), int(tokens[4 + shift]) > 1)
        self._left -= 1
        if self._left <= 0:
            self._over.set()
        try:
            await self._client.publish(msg.reply, b"+ACK")
        except NotSentError:
            return  # it is delivered again
