"""The queue of an endpoint of the user's that hands out jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.answers import WrongAnswerError, beginning, decoded, walk
from supervisor.loads.executor import Failure
from supervisor.loads.queues import EMPTY, Claimed
from supervisor.loads.web import Browser, HttpRequest


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
            return str(walk(decoded(answer.text), self._endpoint.submitted))
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
        return request.judge(answer) or self._claimed(answer.text, asked)

    def _claimed(self, text: str, asked: float) -> Claimed | Failure:
        try:
            job = walk(decoded(text), self._endpoint.job)
        except WrongAnswerError as error:
            return Failure("wrong answer", str(error))
        if isinstance(job, bool | dict | list):
            return Failure("wrong answer", f"{self._endpoint.job} is no name of a job: {beginning(text)}")
        return EMPTY if job is None else Claimed(str(job), asked, None)

    async def finish(self, job: str, worker: int, token: Any) -> bool | None:  # noqa: ARG002  # the name says all
        """Finish a job; a refusal that is no error of the server's is for good."""
        request = self._endpoint.finish
        if request is None:
            return True
        words = {"job": job, "worker": str(worker), "operation": f"{job}-{worker}"}
        answer = await self._browser.ask(request, words, self._timeout)
        if isinstance(answer, Failure):
            return None
        wrong = request.judge(answer)
        return None if wrong and answer.status >= 500 else not wrong
