"""The queue of a subscriber as its client reads it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from supervisor.demo.e2e.conftest import Api

pytestmark = pytest.mark.anyio


async def test_get_multiple_messages(api: Api) -> None:
    subscription = await api.subscribe("multiple", "users/user")
    changes = [f"user-{time.time_ns()}-{n}" for n in range(5)]
    await api.change("users/user", *changes)
    assert [message["id"] for message in await api.fetch(subscription, 5)] == changes


async def test_every_subscriber_gets_a_message(api: Api) -> None:
    subscriptions = [await api.subscribe(f"several{n}", "users/user") for n in range(2)]
    change = f"user-{time.time_ns()}"
    await api.change("users/user", change)
    for subscription in subscriptions:
        assert [message["id"] for message in await api.fetch(subscription, 1)] == [change]
