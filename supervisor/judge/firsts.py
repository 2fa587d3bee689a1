"""The first time that each kind of thing went wrong."""

from __future__ import annotations

from typing import Final, NamedTuple

from supervisor.journal.events import LoadWindow
from supervisor.judge.counting import Moment, unexplained

UNEXPLAINED: Final = "unexplained"
_FAILED: Final = "failed operation"
_UNEXPLAINED_FAILURE: Final = f"{_FAILED}, {UNEXPLAINED}"


class First(NamedTuple):
    """The first time that something went wrong, and what was open then."""

    moment: Moment
    what: str
    episodes: tuple[str, ...]


class Firsts(dict[str, First]):
    """By what went wrong: the first crash, and the first crash that is unexplained, which may be the same."""

    def note(self, kind: str, first: First) -> None:
        """Keep the earliest of its kind, and the earliest that no episode explains."""
        for name in (kind,) if first.episodes else (kind, f"{kind}, {UNEXPLAINED}"):
            if self._earliest(name, first.moment):
                self[name] = first

    def window(self, window: LoadWindow, moment: Moment) -> None:
        """Take the failed operations of a window; `moment` is its record's."""
        for piece in window.slices:
            if piece.first_failure is None or not (piece.episodes or unexplained(piece)):
                continue
            known = self.get(_FAILED if piece.episodes else _UNEXPLAINED_FAILURE)
            if known is None or piece.first_failure < known.moment.mono:
                what = f"{window.load}: {', '.join(list(piece.errors)[:3])}"
                self.note(_FAILED, First(moment.at(piece.first_failure), what, piece.episodes))

    def _earliest(self, name: str, moment: Moment) -> bool:
        return name not in self or moment.mono < self[name].moment.mono
