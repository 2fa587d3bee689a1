"""Probes over the network: what an HTTP endpoint answers, whether a TCP port does."""

from __future__ import annotations

import json
from typing import Annotated, ClassVar

import aiohttp
import anyio
from pydantic import BeforeValidator, Field, JsonValue

from supervisor.answers import (
    BODY,
    Headers,
    Url,
    Wanted,
    WrongAnswerError,
    beginning,
    decoded,
    differences,
    in_words,
    walk,
)
from supervisor.kinds import Strict
from supervisor.probes.base import CannotSee, Probe, Seen, Timeout, View


class Request(Strict):
    """An HTTP request, and what its answer is held against."""

    url: Url
    method: str = Field("GET", pattern=r"^[A-Z]+$")
    headers: Headers = Field(default_factory=dict)
    body: str | None = Field(None, description="What is sent.")
    status: int = Field(200, ge=100, le=599)
    contains: str | None = Field(None, description="A text that the answer contains.")
    values: dict[str, Wanted] = Field(
        default_factory=dict,
        alias="json",
        description='Values of a JSON answer by their path: `{orchestrator.state: running, lag: "< 5", nodes.0.up: true}`.',
    )
    timeout: Timeout = Field(5.0, description="How long one answer may take.")


def _request(written: object) -> object:
    """A URL alone means a request for it."""
    return {"url": written} if isinstance(written, str) else written


class Http(Probe):
    """An HTTP endpoint answers as expected. Redirects are not followed: the probe sees what this URL says."""

    key: ClassVar[str] = "http"

    http: Annotated[
        Request,
        BeforeValidator(_request, json_schema_input_type=str | Request),
    ]

    @property
    def title(self) -> str:
        """The request, and all that is expected of the answer."""
        wanted = self.http
        method = "" if wanted.method == "GET" else f"{wanted.method} "
        parts = [f"http {method}{wanted.url} == {wanted.status}"]
        if wanted.contains is not None:
            parts.append(f"contains {wanted.contains!r}")
        parts += [f"{path} {in_words(value)}" for path, value in wanted.values.items()]
        return ", ".join(parts)

    @property
    def deadline(self) -> float:
        """Seconds that one answer may take."""
        return self.http.timeout

    async def see(self, view: View) -> Seen:
        """Ask once. The value is the one that a single JSON path leads to, else the status."""
        status, body = await self._ask(view)
        wanted, text = self.http, body.decode(errors="replace")
        if status != wanted.status:
            return Seen(False, status, f"it answered {status}: {beginning(text)}")
        if wanted.contains is not None and wanted.contains not in text:
            return Seen(False, status, f"the answer does not contain {wanted.contains!r}: {beginning(text)}")
        return self._see_values(status, text) if wanted.values else Seen(True, status)

    async def _ask(self, view: View) -> tuple[int, bytes]:
        wanted = self.http
        headers = {name: secret.get_secret_value() for name, secret in wanted.headers.items()}
        try:
            async with view.http.request(
                wanted.method,
                wanted.url,
                headers={
                    "Connection": "close",
                    **headers,
                },  # a kept connection says nothing about the next client's
                data=wanted.body,
                allow_redirects=False,
            ) as answer:
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) >= BODY:
                        break
                return answer.status, bytes(body[:BODY])
        except (aiohttp.ClientError, OSError) as error:
            raise CannotSee(f"no answer: {error or type(error).__name__}") from error

    def _see_values(self, status: int, text: str) -> Seen:
        wanted = self.http.values
        try:
            answer = decoded(text)
            wrong = differences(answer, wanted)
        except WrongAnswerError as error:
            raise CannotSee(str(error)) from error
        value = walk(answer, next(iter(wanted))) if len(wanted) == 1 else status
        return Seen(not wrong, _plain(value), wrong)


def _plain(value: JsonValue) -> float | str:
    if isinstance(value, bool) or value is None or isinstance(value, list | dict):
        return json.dumps(value)
    return value


class Address(Strict):
    """A TCP address."""

    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    timeout: Timeout = Field(5.0, description="How long the connection may take.")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(written: object) -> object:
    """Take `host:port` apart, and `[::1]:port`."""
    if not isinstance(written, str):
        return written
    host, _, port = written.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError("expected host:port, such as 127.0.0.1:4222")
    return {"host": host.removeprefix("[").removesuffix("]"), "port": int(port)}


class Tcp(Probe):
    """Somebody accepts connections at an address."""

    key: ClassVar[str] = "tcp"

    tcp: Annotated[Address, BeforeValidator(_address, json_schema_input_type=str | Address)]

    @property
    def title(self) -> str:
        """The address."""
        return f"tcp {self.tcp} accepts"

    @property
    def deadline(self) -> float:
        """Seconds that the connection may take."""
        return self.tcp.timeout

    async def see(self, view: View) -> Seen:  # noqa: ARG002  # it needs nothing of it
        """Connect and close."""
        try:
            async with await anyio.connect_tcp(self.tcp.host, self.tcp.port):
                return Seen(True)
        except OSError as error:
            raise CannotSee(f"cannot connect: {error.__cause__ or error}") from error
