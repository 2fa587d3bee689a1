"""Reads the soak file of a run again while it soaks: what can change does, what cannot keeps the whole file from being taken.

The order is what makes it safe: the new file is checked whole; what goes or changes is undone while recovery still knows it; then the run
directory's copy, then the journal, and only then does anything new come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import structlog

from supervisor.faults.limits import Bounds
from supervisor.faults.operator import Answer, Refused
from supervisor.faults.scheduler import Scheduler
from supervisor.journal.base import Journal, JournalError
from supervisor.journal.events import SoakFileRead
from supervisor.journal.files import write_atomically
from supervisor.probes.base import Probe
from supervisor.soak import Soak
from supervisor.soakfile.discovery import discovered
from supervisor.soakfile.errors import SoakFileError
from supervisor.soakfile.load import Loaded
from supervisor.soakfile.plan import missing

CHANGES: Final = frozenset(
    {
        *("faults", "nemesis", "limits", "thresholds", "duration", "on"),
        *("watchdogs", "steady_state", "grace"),
    }
)
"""The sections that may change while a soak runs."""
_WHY: Final[Mapping[str, str]] = {
    "soak": "its name is the name of the run directory",
    "seed": "every draw so far came from it",
    "engines": "the units run as they were started",
    "broker": "the connections are open as they are",
    "links": "clients are connected through them, and know them by their addresses",
    "loads": "what they do is numbered and counted from the begin of the soak to its end: another load would be judged as one with "
    "it; end this run and start a new one",
    "baseline": "faults wait for it once, before the soak",
    "web": "whoever scrapes it knows its address from the start",
    "control": "it is where this was asked, and its address is open",
}
_OTHER: Final = "it was read when the soak began"
_log: Final = structlog.get_logger("soakd")

Change = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """What one version of a soak file has and another has not, as dotted paths."""

    added: Change = ()
    removed: Change = ()
    changed: Change = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __iter__(self) -> Iterator[str]:
        yield from (*self.added, *self.removed, *self.changed)

    def __str__(self) -> str:
        parts = (("added", self.added), ("removed", self.removed), ("changed", self.changed))
        return "; ".join(f"{what} {', '.join(paths)}" for what, paths in parts if paths)

    @classmethod
    def between(cls, before: Mapping[str, Any], after: Mapping[str, Any], above: str = "") -> Difference:
        """Compare plain data: mappings key by key, anything else as a whole."""
        added = [f"{above}{key}" for key in after if key not in before]
        removed = [f"{above}{key}" for key in before if key not in after]
        changed = list[str]()
        for key in before:
            one, other = before[key], after.get(key)
            if key in after and one != other:
                if isinstance(one, Mapping) and isinstance(other, Mapping):
                    below = cls.between(one, other, f"{above}{key}.")
                    added += below.added
                    removed += below.removed
                    changed += below.changed
                else:
                    changed.append(f"{above}{key}")
        return cls(tuple(added), tuple(removed), tuple(changed))


class Reload:
    """The soak file of one run, read again whenever somebody asks for it."""

    def __init__(  # noqa: PLR0917  # the parts of the run that it changes
        self,
        loaded: Loaded,
        read: Callable[[], Loaded],
        directory: Path,
        journal: Journal,
        scheduler: Scheduler,
        adopt: Callable[[Soak], None],
        probes: Callable[[Soak], Sequence[Probe]],
    ) -> None:
        """`loaded` is the file as it is in use, `read` reads it again; `adopt` hands the rest of the run what is new.

        `probes` says what the steady state of a soak file is.
        """
        self._loaded, self._read, self._directory = loaded, read, directory
        self._journal, self._scheduler, self._adopt = journal, scheduler, adopt
        self._probes = probes
        self._lock = anyio.Lock()

    async def follow(self, asked: Callable[[], Awaitable[None]]) -> None:
        """Read the file again each time that a signal asks for it; what is wrong is logged and journalled. A leaf task."""
        while True:
            await asked()
            try:
                answer = await self.reload()
            except Refused as error:
                _log.error("the soak file is not taken: the soak goes on as it was", why=str(error))
            else:
                _log.info("the soak file was read again", change=answer["said"])

    async def reload(self) -> Answer:
        """Read the file again and take it; Refused, with every reason, if that cannot be, and then the soak goes on as it was."""
        async with self._lock:
            try:
                return await self._reload()
            except Refused as error:
                self._journal.emit(SoakFileRead(refused=str(error)))
                raise

    async def _reload(self) -> Answer:
        try:
            loaded = await discovered(await anyio.to_thread.run_sync(self._read))
        except SoakFileError as error:
            raise Refused("\n".join(map(str, error.problems))) from error
        difference = Difference.between(self._loaded.data, loaded.data)
        if not difference:
            return {"said": "the soak file says what it said before"}
        if refused := [*_what_stays(difference, loaded), *await self._what_cannot(loaded)]:
            raise Refused("\n".join(refused))
        soak = loaded.soak
        await self._retire(soak)
        try:
            await self._write(loaded)
            await self._record(soak, difference)
        except Refused:
            with suppress(Refused):
                await self._write(self._loaded)
            self._scheduler.reinstate()
            raise
        self._loaded = loaded
        self._adopt(soak)
        bounds = Bounds(soak.limits, soak.nodes())
        self._scheduler.adopt(soak.faults, soak.nemesis, bounds)
        return {"said": str(difference)}

    async def _what_cannot(self, loaded: Loaded) -> list[str]:
        """Return what this machine lacks for faults, as before a run. Those that do not change are there already."""
        before = self._loaded.soak.faults
        news = [name for name, fault in loaded.soak.faults.items() if before.get(name) != fault]
        return await anyio.to_thread.run_sync(missing, loaded, self._directory, news)

    async def _retire(self, soak: Soak) -> None:
        left = await self._scheduler.retire(soak.faults)
        if left:
            raise Refused(
                f"{', '.join(left)} could not be undone, and after the change nothing would know how: mend that first, "
                "its journal says what is broken"
            )

    async def _write(self, loaded: Loaded) -> None:
        file = self._directory / "soak.yaml"
        try:
            await anyio.to_thread.run_sync(write_atomically, file, loaded.resolved.encode())
        except OSError as error:
            raise Refused(f"cannot write {file}, by which a dead run is healed: {error.strerror}") from error

    async def _record(self, soak: Soak, difference: Difference) -> None:
        event = SoakFileRead(
            added=difference.added,
            removed=difference.removed,
            changed=difference.changed,
            duration=soak.duration,
            faults=tuple(soak.faults),
            thresholds=tuple(map(str, soak.asked)),
            not_asked=tuple(map(str, soak.not_asked)),
            planned=self._scheduler.planned(soak.faults),
            probes=tuple(probe.title for probe in self._probes(soak)),
        )
        try:
            await self._journal.commit(event)
        except JournalError as error:
            raise Refused(f"the change could not be journalled: {error}") from error


def _what_stays(difference: Difference, loaded: Loaded) -> Iterator[str]:
    """Yield what of a difference cannot be taken, each with the reason."""
    for path in dict.fromkeys(path for path in difference if path.partition(".")[0] not in CHANGES):
        section = path.partition(".")[0]
        where = (
            loaded.where(*path.split(".")) if loaded.document.has((section,)) else f"{loaded.path}: {path}"
        )
        yield f"{where}: it cannot change while a soak runs: {_WHY.get(section, _OTHER)}"
