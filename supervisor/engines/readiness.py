"""Readiness: when a unit that runs can be used."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Self

import aiohttp
import anyio
from anyio.abc import SocketAttribute
from pydantic import Field, field_validator, model_validator

from supervisor.engines.output import Awaited
from supervisor.kinds import Strict
from supervisor.values import Duration

FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.25
"""Seconds between two looks: quick for what starts quickly, light on what takes long."""
LOOK: Final = 2.0
"""Seconds that one look may take."""


class Ready(Strict):
    """What shows that a unit is ready: one of port, http or log."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="127.0.0.1 accepts connections on this port."
    )
    http: str | None = Field(None, pattern=r"^https?://", description="This URL answers with `status`.")
    status: int = Field(200, ge=100, le=599)
    log: str | None = Field(
        None, min_length=1, description="A line of its output matches this regular expression."
    )
    timeout: Duration = Field(30.0, description="How long it may take.")

    @field_validator("log")
    @classmethod
    def _pattern(cls, log: str | None) -> str | None:
        try:
            re.compile((log or "").encode())
        except re.error as error:
            raise ValueError(f"expected a regular expression: {error}") from error
        return log

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("port", "http", "log") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of port, http or log, found {' and '.join(given) or 'none'}")
        return self

    def __str__(self) -> str:
        if self.port:
            return f"127.0.0.1:{self.port} to accept connections"
        return (
            f"{self.http} to answer {self.status}" if self.http else f"a line like {self.log} in its output"
        )

    async def wait(self, awaited: Awaited | None, say: Callable[[str], None]) -> None:
        """Wait for it, without a time limit; `say` is told what was seen last. `awaited` is the log's pattern."""
        if self.port is not None:
            port = self.port
            await _poll(lambda: _look_at_port(port), say)
        elif self.http is not None:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LOOK)) as session:
                url = self.http
                await _poll(lambda: _look_at_url(session, url, self.status), say)
        elif awaited is not None:
            say("no such line")
            await awaited.seen.wait()


async def _poll(look: Callable[[], Awaitable[str]], say: Callable[[str], None]) -> None:
    """Look until there is nothing to complain about."""
    pause = FIRST_PAUSE
    while complaint := await look():
        say(complaint)
        await anyio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)


async def _look_at_port(port: int) -> str:
    try:
        with anyio.fail_after(LOOK):
            stream = await anyio.connect_tcp("127.0.0.1", port)
    except TimeoutError:
        return "no answer"
    except OSError:
        return "nobody listens there"
    async with stream:
        # A connection to a free port above 32768 can, once in some ten thousand tries, meet itself.
        itself = stream.extra(SocketAttribute.local_port) == port  # noqa: S610  # not Django's
    return "nobody listens there" if itself else ""


async def _look_at_url(session: aiohttp.ClientSession, url: str, status: int) -> str:
    try:
        async with session.get(url, allow_redirects=False) as answer:
            return "" if answer.status == status else f"it answers {answer.status}"
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return str(error) or "no answer"
