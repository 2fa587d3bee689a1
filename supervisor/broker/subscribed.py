"""Subscriptions that outlive the client they were made on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Final

import anyio
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from supervisor.broker.client import Client
from supervisor.broker.mended import Callback

PATIENCE: Final = 1.0
"""Seconds a subscription may wait for room in the outbound buffer."""


class Subscribed:
    """One subscription of a handle. It is made again on each new client; messages in between are missed, as core NATS has it."""

    def __init__(
        self,
        subject: str,
        queue: str,
        callback: Callback,
        forget: Callable[[Subscribed], None],
        broken: Callable[[Exception], None],
    ) -> None:
        self.subject, self.queue = subject, queue
        self._forget, self._broken = forget, broken
        self._callback = self._guarded(callback)
        self._made: dict[Client, Subscription] = {}
        self._ended = False

    def made(self, client: Client) -> bool:
        """Say whether it was made on a client."""
        return client in self._made

    async def make(self, client: Client) -> None:
        """Make it on a client; nats.errors.Error if that is closed, has no room for it in time, or the subject is none."""
        self._made = {known: sub for known, sub in self._made.items() if not known.is_closed}
        with anyio.move_on_after(PATIENCE):
            sub = await client.hear(self.subject, self._callback, self.queue)
            self._made[client] = sub
        if self._ended:  # meanwhile, by its owner, who does not know of this client
            await self._end()
        elif client not in self._made:
            raise nats.errors.TimeoutError

    async def unsubscribe(self) -> None:
        """End it; what has arrived and was not handled yet is dropped."""
        self._ended = True
        self._forget(self)
        await self._end()

    async def _end(self) -> None:
        while self._made:
            _, sub = self._made.popitem()
            with anyio.move_on_after(PATIENCE):
                try:
                    await sub.unsubscribe()
                except nats.errors.Error:
                    continue  # its client is closing, and the subscription with it

    def _guarded(self, callback: Callback) -> Callback:
        """Return the callback, of its kind, with what it raises told: nats-py would only count it, or end its read loop."""

        async def wait(msg: Msg) -> None:
            try:
                await callback(msg)  # type: ignore[misc]  # see below
            except Exception as error:  # noqa: BLE001  # raised again in the handle's task
                self._broken(error)

        def take(msg: Msg) -> None:
            try:
                callback(msg)
            except Exception as error:  # noqa: BLE001  # as above
                self._broken(error)

        return wait if inspect.iscoroutinefunction(callback) else take
