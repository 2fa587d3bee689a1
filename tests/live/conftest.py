"""Terminals that show `soakd watch`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from watch_terminal import Terminal, Watch


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Start `soakd watch` with these words: `watch(url)`."""
    opened: list[Terminal] = []

    def start(*words: str, **more: Any) -> Terminal:
        opened.append(terminal := Terminal(*words, **more))
        return terminal

    yield start
    for terminal in opened:
        terminal.close()
