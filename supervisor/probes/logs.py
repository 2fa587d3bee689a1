"""The probe of a unit's log: how often a pattern occurs in it, or a number that it tells."""

from __future__ import annotations

import re
import time
from functools import partial
from typing import ClassVar, Literal, Self

import anyio.to_thread
from pydantic import Field, model_validator

from supervisor.engines.base import EngineError
from supervisor.engines.selectors import Selector
from supervisor.kinds import Strict
from supervisor.probes.base import CannotSee, Probe, Seen, Tolerance, View
from supervisor.probes.units import resolve
from supervisor.values import Comparison, Duration, format_duration


class LogLook(Strict):
    """What is expected of the lines of a log."""

    unit: Selector = Field(description="The unit; of several, all lines count.")
    pattern: re.Pattern[str] = Field(description="A regular expression, searched for in each line.")
    count: Tolerance | None = Field(
        None, description='How many lines it is found in; left out without `value`: ">= 1".'
    )
    value: Tolerance | None = Field(
        None, description="What the number in the pattern's one group is in the last line it is found in."
    )
    since: Duration | Literal["episode"] = Field(
        60.0, description="How far back to look: a time, or `episode` for all since the episode began."
    )

    @model_validator(mode="after")
    def _one_expectation(self) -> Self:
        if self.count is not None and self.value is not None:
            raise ValueError("expected count or value, found both: write two probes")
        if self.value is not None and self.pattern.groups != 1:
            raise ValueError(
                f"pattern: value needs one group with the number, such as (\\d+), found {self.pattern.groups}"
            )
        return self

    @property
    def expected(self) -> Comparison:
        """What the number of lines, or the value, is held against."""
        return self.value or self.count or Comparison(">=", 1)


class Log(Probe):
    """A pattern occurs so often in a unit's log, or the number that it finds there is as expected."""

    key: ClassVar[str] = "log"

    log: LogLook

    @property
    def title(self) -> str:
        """Unit, pattern, and what is expected."""
        what = "value" if self.log.value else "count"
        since = (
            self.log.since if isinstance(self.log.since, str) else f"last {format_duration(self.log.since)}"
        )
        return f"log {self.log.unit} /{self.log.pattern.pattern}/ {what} {self.log.expected} ({since})"

    async def see(self, view: View) -> Seen:
        """Read the part of the log and search it, in a thread: a pattern may take its time."""
        since = time.time() - self.log.since if not isinstance(self.log.since, str) else view.since
        if since is None:
            raise CannotSee(
                "`since: episode` means nothing outside an episode: give a time, such as since: 60s"
            )
        found: list[str] = []
        for unit in await resolve(view.fleet, self.log.unit):
            try:
                lines = await view.fleet.logs(unit, since=since)
            except EngineError as error:
                raise CannotSee(f"cannot read the log of {unit}: {error}") from error
            found += await anyio.to_thread.run_sync(
                partial(_search, self.log.pattern, lines), abandon_on_cancel=True
            )
        expected = self.log.expected
        if self.log.value is None:
            return Seen(expected.holds(len(found)), len(found), f"found in {len(found)} lines")
        if not found:
            raise CannotSee("the pattern was not found, so there is no value")
        return Seen(expected.holds(found[-1]), found[-1], f"the last value is {found[-1]}")


def _search(pattern: re.Pattern[str], lines: bytes) -> list[str]:
    """Return for each line with the pattern its first group, or all of it."""
    matches = (pattern.search(line) for line in lines.decode(errors="replace").splitlines())
    return [match[1 if pattern.groups else 0] or "" for match in matches if match]
