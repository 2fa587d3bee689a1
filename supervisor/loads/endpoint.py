"""The queue of an endpoint of the user's that hands out jobs."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from supervisor.answers import WrongAnswerError, beginning, decoded, walk
from supervisor.loads.executor import Failure
from supervisor.loads.queues import EMPTY, Claimed
from supervisor.loads.web import Browser, HttpRequest, UnsendableError

_HALF: Final = re.compile(r"[\ud800-\udfff]")
"""Half of a surrogate pair, which JSON can name."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is asked for at an endpoint; `job` is the path of a job's name in the answer to a claim."""

    claim: HttpRequest
    job: str
    empty: Sequence[int]
    finish: HttpRequest | None
    submit: HttpRequest | None
    submitted: str | None


class HttpQueue:
    """An endpoint that hands out jobs."""

    def __init__(self, browser: Browser, endpoint: Endpoint, *, prefix: str, timeout: float) -> None:
        """`prefix` begins the names of the jobs that the load submits."""
        self._browser, self._endpoint, self._prefix, self._timeout = browser, endpoint, prefix, timeout
        self.supplies = endpoint.submit is not None
        self._n = 0

    async def supply(self) -> str | None:
        """Submit a job."""
        request = self._endpoint.submit
        assert request is not None  # noqa: S101  # it is only called if it is there
        self._n += 1
        job = f"{self._prefix}{self._n}"
        answer = await self._browser.ask(request, {"job": job, "operation": job}, self._timeout)
        if isinstance(answer, Failure) or request.judge(answer):
            return None
        if self._endpoint.submitted is None:
            return job
        try:
            return _name(answer.text, self._endpoint.submitted)
        except WrongAnswerError:
            return None

    async def claim(self, worker: int, offered: Sequence[str]) -> Claimed | Failure:  # noqa: ARG002  # the system chooses
        """Ask for a job."""
        asked, request = time.monotonic(), self._endpoint.claim
        words = {"worker": str(worker), "operation": f"{self._prefix}{worker}-{time.monotonic_ns()}"}
        answer = await self._browser.ask(request, words, self._timeout)
        if isinstance(answer, Failure):
            return answer
        if answer.status in self._endpoint.empty:
            return EMPTY
        return request.judge(answer) or self._claimed(answer.text, worker, asked)

    def _claimed(self, text: str, worker: int, asked: float) -> Claimed | Failure:
        """Take a job, unless nobody could ever finish it by the name that it was given."""
        path, finish = self._endpoint.job, self._endpoint.finish
        try:
            job = _name(text, path)
            if job is not None and finish is not None:
                finish.filled(_words(job, worker))
        except WrongAnswerError as error:
            return Failure("wrong answer", str(error))
        except UnsendableError as error:
            return Failure("wrong answer", f"{path} is no name that finish could send: {error}")
        return EMPTY if job is None else Claimed(job, asked, None)

    async def finish(self, job: str, worker: int, token: Any) -> bool | None:  # noqa: ARG002  # the name says all
        """Finish a job; a refusal that is no error of the server's is for good."""
        request = self._endpoint.finish
        if request is None:
            return True
        answer = await self._browser.ask(request, _words(job, worker), self._timeout)
        if isinstance(answer, Failure):
            return None
        wrong = request.judge(answer)
        return None if wrong and answer.status >= 500 else not wrong


def _name(text: str, path: str) -> str | None:
    """Return the name of a job that an answer has, None if it has none; WrongAnswerError for what is no name."""
    job = walk(decoded(text), path)
    if isinstance(job, bool | dict | list):
        raise WrongAnswerError(f"{path} is no name of a job: {beginning(text)}")
    name = None if job is None else str(job)
    if name and _HALF.search(name):
        raise WrongAnswerError(f"{path} has half a character, which no text can have: {beginning(text)}")
    return name


def _words(job: str, worker: int) -> dict[str, str]:
    """Return what may stand in the request that finishes a job."""
    return {"job": job, "worker": str(worker), "operation": f"{job}-{worker}"}
