"""Loads whose own settings keep them from working: to try again would change nothing, and would only hide the reason."""

from __future__ import annotations

from typing import Final

from supervisor.broker.api import ApiError
from supervisor.broker.client import BrokerError
from supervisor.supervision import leaves, what

NO_PEERS: Final = 10005
"""The one error 400 of the JetStream API that servers which are away have in common with a wrong request."""
WRONG: Final = frozenset({10052, 10074, 10096})
"""Errors 500 of it that are about the request all the same: an invalid stream, and replicas without a cluster."""


class UnworkableError(Exception):
    """A load cannot work as it is set up; the text says why, and what to do. It is not started again."""


class ExistsError(BrokerError, UnworkableError):
    """What a load would make is there, and is not its own."""


def unworkable(error: BaseException, *, worked: bool) -> str:
    """Return why a load that raised cannot work by its settings; empty if it may the next time.

    `worked`: it has ended an operation before, in whatever way. Else a ValueError of its own, or a request for a stream or consumer
    that the broker calls wrong in itself, is about its settings.
    """
    for leaf in leaves(error):
        if isinstance(leaf, UnworkableError):
            return str(leaf)
        if worked:
            continue
        if isinstance(leaf, ApiError) and (
            leaf.err_code in WRONG or (leaf.code == 400 and leaf.err_code != NO_PEERS)
        ):
            return f"the broker refuses what its settings ask for, {leaf}: correct them"
        if isinstance(leaf, ValueError):
            return f"{what(leaf)}: correct its settings"
    return ""
