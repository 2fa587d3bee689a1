"""A JetStream written by the tests, on a nats-server that has none: honest, but for what a test lets it do wrong."""

from __future__ import annotations

import base64
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import nats
from load_bench import NatsServer
from nats.aio.client import Client
from nats.aio.msg import Msg

from supervisor.supervision import nursery

STREAM_NOT_FOUND = {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}
WRONG_LAST = {"error": {"code": 400, "err_code": 10071, "description": "wrong last sequence"}}
NO_MESSAGE = {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}


class FalseJetStream:
    """Streams without limits, consumers without redelivery."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.streams: dict[str, dict[str, Any]] = {}
        self.sequence = 0
        self.last: dict[str, tuple[int, bytes]] = {}
        """Place and payload of the last message of each subject."""
        self.work: deque[tuple[int, bytes]] = deque()
        self.acked: list[str] = []
        self.published = itertools.count(1)
        self.log: list[tuple[int, str, bytes]] = []
        self.watcher = ""
        """Where a push consumer's messages go."""
        self.told = 0

    # --- what a test may do wrong ----------------------------------------------------------------------------------------

    def accepts(self, _: str, expected: int, found: int) -> bool:
        return expected == found

    def shown(self, subject: str) -> tuple[int, bytes] | None:
        return self.last.get(subject)

    def tells(self, _: int) -> bool:
        return True

    def given(self) -> tuple[int, bytes] | None:
        return self.work.popleft() if self.work else None

    # --- the server ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        for subject, answer in (
            ("$JS.API.STREAM.INFO.*", self._info),
            ("$JS.API.STREAM.CREATE.*", self._create),
            ("$JS.API.STREAM.DELETE.*", self._delete),
            ("$JS.API.CONSUMER.DURABLE.CREATE.*.*", self._consumer),
            ("$JS.API.CONSUMER.CREATE.>", self._consumer),
            ("$JS.API.CONSUMER.MSG.NEXT.*.*", self._next),
            ("$JS.API.DIRECT.GET.>", self._direct),
            ("$JS.API.STREAM.MSG.GET.*", self._get),
            ("$JS.API.CONSUMER.DELETE.*.*", self._unwatch),
            ("ACK.>", self._ack),
            ("$KV.>", self._publish),
            ("soak.>", self._publish),
        ):
            await self.client.subscribe(subject, cb=answer)
        await self.client.flush()

    async def _say(self, msg: Msg, answer: dict[str, Any]) -> None:
        await msg.respond(json.dumps(answer).encode())

    async def _info(self, msg: Msg) -> None:
        found = self.streams.get(msg.subject.rpartition(".")[2])
        await self._say(
            msg, {"config": found, "state": {"last_seq": self.sequence}} if found else STREAM_NOT_FOUND
        )

    async def _create(self, msg: Msg) -> None:
        config = json.loads(msg.data)
        self.streams[config["name"]] = config
        await self._say(msg, {"config": config, "state": {"last_seq": 0}})

    async def _delete(self, msg: Msg) -> None:
        self.streams.pop(msg.subject.rpartition(".")[2], None)
        await self._say(msg, {"success": True})

    async def _consumer(self, msg: Msg) -> None:
        config = json.loads(msg.data)["config"]
        await self._say(msg, {"name": config.get("name", "workers")})
        if inbox := config.get("deliver_subject"):
            self.watcher, self.told = inbox, 0
            for sequence, subject, payload in list(self.log):
                if sequence >= config["opt_start_seq"]:
                    await self._tell(sequence, subject, payload)

    async def _unwatch(self, msg: Msg) -> None:
        self.watcher = ""
        await self._say(msg, {"success": True})

    async def _tell(self, sequence: int, _: str, payload: bytes) -> None:
        if self.watcher and self.tells(sequence):
            self.told += 1
            await self.client.publish(self.watcher, payload, f"ACK.X.S.watch.1.{sequence}.{self.told}.0.0")

    async def beat(self) -> None:
        """Let the push consumer be heard of, for ever."""
        while True:
            await anyio.sleep(0.3)
            if self.watcher:
                headers = {"Status": "100", "Nats-Last-Consumer": str(self.told), "Nats-Last-Stream": "0"}
                await self.client.publish(self.watcher, headers=headers)

    async def _get(self, msg: Msg) -> None:
        wanted = json.loads(msg.data)
        found = self.shown(wanted["last_by_subj"]) if "last_by_subj" in wanted else self._held(wanted["seq"])
        if found is None:
            await self._say(msg, NO_MESSAGE)
        else:
            message = {"seq": found[0], "data": base64.b64encode(found[1]).decode()}
            await self._say(msg, {"message": message})

    def _held(self, sequence: int) -> tuple[int, bytes] | None:
        return next(((n, payload) for n, _, payload in self.log if n == sequence), None)

    async def _publish(self, msg: Msg) -> None:
        expected = (msg.headers or {}).get("Nats-Expected-Last-Subject-Sequence")
        found = self.last.get(msg.subject, (0, b""))[0]
        if expected is not None and not self.accepts(msg.subject, int(expected), found):
            await self._say(msg, WRONG_LAST)
            return
        self.sequence += 1
        self.last[msg.subject] = self.sequence, msg.data
        if msg.subject.startswith("soak."):
            self.work.append((self.sequence, msg.data))
        self.log.append((self.sequence, msg.subject, msg.data))
        await self.stored(msg.subject, self.sequence, msg.data)
        await self._tell(self.sequence, msg.subject, msg.data)
        await self._say(msg, {"stream": "S", "seq": self.sequence})

    async def stored(self, _: str, sequence: int, __: bytes) -> None:
        """A message has its place."""

    async def _next(self, msg: Msg) -> None:
        job = self.given()
        if job is None:
            await self.client.publish(msg.reply, headers={"Status": "404", "Description": "No Messages"})
        else:
            sequence, payload = job
            await self.client.publish(msg.reply, payload, f"ACK.S.workers.1.{sequence}.{sequence}.0.0")

    async def _ack(self, msg: Msg) -> None:
        self.acked.append(msg.subject)
        if msg.reply:
            await msg.respond(b"")

    async def _direct(self, msg: Msg) -> None:
        subject = msg.subject.split(".", 5)[5]
        found = self.shown(subject)
        if found is None:
            await self.client.publish(
                msg.reply, headers={"Status": "404", "Description": "Message Not Found"}
            )
        else:
            headers = {"Nats-Sequence": str(found[0]), "Nats-Subject": subject, "Nats-Stream": "S"}
            await self.client.publish(msg.reply, found[1], headers=headers)


@asynccontextmanager
async def playing(
    server: NatsServer, kind: type[FalseJetStream] = FalseJetStream
) -> AsyncIterator[FalseJetStream]:
    """Let a false JetStream answer on a server that has none."""
    broker = server.broker
    client = await nats.connect(broker["servers"][0], user=broker["user"], password=broker["password"])
    false = kind(client)
    await false.start()
    try:
        async with nursery() as group:
            group.start_soon(false.beat)
            yield false
    finally:
        await client.close()
