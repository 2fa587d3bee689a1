"""From a change of the directory to the queue of a subscriber."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from supervisor.demo.e2e.conftest import Api

pytestmark = pytest.mark.anyio

USERS = [f"users/user-user{n}" for n in range(8)]
GROUPS = [f"groups/group-group{n}" for n in range(4)]


def names(kind: str, count: int) -> list[str]:
    """Names that no earlier iteration has used: the system stores nothing twice."""
    return [f"{kind}-{time.time_ns()}-{n}" for n in range(count)]


async def test_prefill_with_multiple_topics(api: Api) -> None:
    subscription = await api.subscribe("prefill", "users/user", "groups/group", prefill=True)
    changes = names("user", 3)
    await api.change("users/user", *changes)
    messages = await api.read(subscription, 15)
    assert [message["id"] for message in messages] == [*USERS, *GROUPS, *changes]


async def test_changes_are_transformed(api: Api) -> None:
    subscription = await api.subscribe("live", "groups/group")
    (change,) = names("group", 1)
    await api.change("groups/group", change)
    (message,) = await api.read(subscription, 1)
    assert message == {"id": change, "topic": "groups/group", "body": {"name": change}}


async def test_other_topics_stay_away(api: Api) -> None:
    subscription = await api.subscribe("filtered", "groups/group")
    await api.change("users/user", *names("user", 2))
    (last,) = names("group", 1)
    await api.change("groups/group", last)
    (message,) = await api.read(subscription, 1)
    assert message["id"] == last
    assert await api.stored(subscription) == 1
