"""Requests over HTTP as loads make them: what the soak file says of one, and how its answer is got and judged."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import quote

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError
from pydantic import Field, JsonValue

from supervisor.answers import (
    BODY,
    Headers,
    Url,
    Wanted,
    WrongAnswerError,
    beginning,
    decoded,
    differences,
    fits_header,
)
from supervisor.kinds import Strict
from supervisor.loads.executor import Failure

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing: one that was not answered has failed, and nothing can have come of it."""
IDEMPOTENT: Final = SAFE | {"PUT", "DELETE"}
"""Methods of which several are as good as one."""
CONNECTING: Final = 0.9
"""Share of an attempt's time that connecting may take, so that it is told from an answer that does not come."""

Status = Annotated[int, Field(ge=100, le=599)]


class UnsendableError(ValueError):
    """A word that cannot stand where a request has it; the text says which, and where."""


class HttpRequest(Strict):
    """An HTTP request, and what its answer is held against."""

    url: Url = Field(
        description="Where it goes. `{operation}` in URL, headers and body is the operation's own id."
    )
    method: str = Field("GET", pattern=r"^[A-Z]+$")
    headers: Headers = Field(default_factory=dict)
    body: str | dict[str, JsonValue] | list[JsonValue] | None = Field(
        None, description="What is sent: a text, or a mapping or list, which is sent as JSON."
    )
    status: Status | Annotated[tuple[Status, ...], Field(min_length=1)] | None = Field(
        None, description="The status that is expected, or several; left out: any from 200 to 299."
    )
    contains: str | None = Field(None, description="A text that the answer contains.")
    values: dict[str, Wanted] = Field(
        default_factory=dict,
        alias="json",
        description='Values of a JSON answer by their path: `{order.state: accepted, lag: "< 5"}`; it may say more.',
    )

    @property
    def safe(self) -> bool:
        """Whether it changes nothing."""
        return self.method in SAFE

    def filled(self, words: Mapping[str, str]) -> tuple[str, dict[str, str], str | None]:
        """Return URL, headers and body with these words in place of `{name}`, written as URLs and JSON write them; UnsendableError."""
        headers = {name: secret.get_secret_value() for name, secret in self.headers.items()}
        body = self.body
        written: Callable[[str], str] = str
        if body is not None and not isinstance(body, str):
            body, written = json.dumps(body), _in_json
            if not any(name.lower() == "content-type" for name in headers):
                headers["Content-Type"] = "application/json"

        def fill(text: str, written: Callable[[str], str]) -> str:
            for name, word in words.items():
                if (place := f"{{{name}}}") in text:
                    text = text.replace(place, written(word))
            return text

        url = fill(self.url, lambda word: quote(word, safe=""))
        sent = body and fill(body, written)
        return url, {name: fill(text, _in_header) for name, text in headers.items()}, sent

    def has(self, name: str) -> bool:
        """Say whether `{name}` is anywhere in URL, headers or body."""
        headers = (secret.get_secret_value() for secret in self.headers.values())
        return any(f"{{{name}}}" in text for text in (self.url, str(self.body), *headers))

    def judge(self, answer: Answer) -> Failure | None:
        """Hold an answer against what is expected."""
        wanted = (self.status,) if isinstance(self.status, int) else self.status
        if answer.status not in wanted if wanted else not 200 <= answer.status < 300:
            return Failure(f"status {answer.status}", beginning(answer.text))
        if self.contains is not None and self.contains not in answer.text:
            return Failure("wrong answer", f"it does not contain {self.contains!r}: {beginning(answer.text)}")
        if self.values:
            try:
                if wrong := differences(decoded(answer.text), self.values):
                    return Failure("wrong answer", wrong)
            except WrongAnswerError as error:
                return Failure("wrong answer", str(error))
        return None


def _in_header(word: str) -> str:
    if fits_header(word):
        return word
    raise UnsendableError(f"no header can carry {word[:80]!r}")


def _in_json(word: str) -> str:
    """Return a word as it stands between the quotes of a JSON text."""
    return json.dumps(word)[1:-1]


class Answer(NamedTuple):
    """What came back."""

    status: int
    text: str


@asynccontextmanager
async def open_browser() -> AsyncGenerator[Browser]:
    """Open the client of one load: connections are kept and used again; there are as many as operations under way."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Browser(session)


class Browser:
    """Sends requests, each with a deadline. Redirects are not followed."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(
        self,
        request: HttpRequest,
        words: Mapping[str, str],
        seconds: float,
        more: Mapping[str, str] | None = None,
    ) -> Answer | Failure:
        """Return the answer, or why there is none. `more`: further headers.

        `connect` has failed, as has `cannot be sent`; `timeout` and `disconnected` may have happened all the same, unless the method
        changes nothing.
        """
        try:
            url, headers, body = request.filled(words)
        except UnsendableError as error:
            return Failure("cannot be sent", str(error))
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=seconds * CONNECTING)
        options: dict[str, Any] = {"data": body, "timeout": timeout, "allow_redirects": False}
        try:
            async with self._session.request(
                request.method, url, headers={**headers, **(more or {})}, **options
            ) as answer:
                return Answer(answer.status, (await _read(answer)).decode(errors="replace"))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Failure("connect", str(error))
        except TimeoutError:
            return _unanswered(request, "timeout", "")
        except (aiohttp.ClientError, OSError) as error:
            if _is_answer(error):
                return Failure("wrong answer", f"it cannot be read: {error}")
            return _unanswered(request, "disconnected", f"{type(error).__name__}: {error}")


def _is_answer(error: Exception) -> bool:
    """Say whether something came back, whole, that is no HTTP, or is packed in a way that cannot be undone."""
    return isinstance(error, aiohttp.ClientResponseError) or isinstance(error.__cause__, ContentEncodingError)


def _unanswered(request: HttpRequest, error: str, detail: str) -> Failure:
    return Failure(error, detail, "failed" if request.safe else "indeterminate")


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """Return a body as far as it is looked at; reading it whole is what lets its connection be used again."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) >= BODY:
            answer.close()
            break
    return bytes(body[:BODY])
