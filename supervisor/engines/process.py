"""Units as local processes: each a process group of its own, its output in a rotated log, its exit seen at once."""

from __future__ import annotations

import shlex
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Final

import anyio
from anyio import to_thread
from pydantic import BeforeValidator, Field, field_validator

from supervisor.engines import cgroups
from supervisor.engines.base import Engine, EngineContext, EngineError, Units
from supervisor.engines.capabilities import CanLimit
from supervisor.engines.local import LocalUnits
from supervisor.engines.local_unit import OUTPUT
from supervisor.engines.problems import listening_ports, problems
from supervisor.engines.readiness import Ready
from supervisor.engines.survivors import end_survivors
from supervisor.kinds import Name, Strict
from supervisor.values import Duration


def _text(value: object) -> object:
    """Take numbers and yes or no for text, as compose files do: `PORT: 9000`."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def words(value: object) -> object:
    """Split a command that was written in one line as a shell would, without being one."""
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise ValueError(f"cannot split the command into words: {error}") from error
    return value


def _signal(value: object) -> object:
    """Read SIGTERM, TERM or 15."""
    try:
        if isinstance(value, int):
            return signal.Signals(value)
        if isinstance(value, str):
            name = value.upper()
            return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except (ValueError, KeyError):
        pass
    raise ValueError("expected a signal such as SIGTERM or SIGINT")


Signal = Annotated[signal.Signals, BeforeValidator(_signal, json_schema_input_type=str | int)]
Text = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | float | bool)]


class ProcessUnit(Strict):
    """One local process."""

    command: Annotated[tuple[Text, ...], BeforeValidator(words, json_schema_input_type=str | list[Text])] = (
        Field(
            min_length=1, description="Program and arguments, as a list or in one line. No shell is involved."
        )
    )
    env: dict[str, Text] = Field(default_factory=dict, description="Added to soakd's own environment.")
    cwd: str | None = Field(
        None,
        description="Seen from the soak file's folder, which is the default; for a unit with `files` its own directory is.",
    )
    after: tuple[str, ...] = Field((), description="Units that must be ready before this one is started.")
    ready: Ready | None = Field(None, description="What shows that it is ready. Left out: ready at once.")
    stop_signal: Signal = signal.SIGTERM
    stop_timeout: Duration = Field(
        5.0, description="How long it may take to stop; then SIGKILL ends its whole group."
    )
    labels: dict[str, Text] = Field(
        default_factory=dict, description="To select it by; `soakd.protect: true` keeps faults off it."
    )
    files: dict[str, str] = Field(
        default_factory=dict, description="Files written into the unit's directory before its first start."
    )

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
                raise ValueError(f"{name!r}: expected a path inside the unit's directory")
            if path.name.startswith(OUTPUT) and len(path.parts) == 1:
                raise ValueError(f"{name!r}: the unit's output is written there, choose another name")
        return files


_CONFIG: Final = frozenset({"-c", "-config", "--config"})
"""Options of nats-server that name its configuration."""


class Processes(Strict):
    """The units of a process engine."""

    units: dict[Name, ProcessUnit] = Field(min_length=1)
    cgroups: bool = Field(
        False,
        description="Give each unit a control group of its own, which faults that squeeze it need; it takes root, as a rule.",
    )


class ProcessEngine(Engine):
    """Units are processes of this machine, children of soakd that end with it."""

    key: ClassVar[str] = "process"
    running: ClassVar[type[LocalUnits]] = LocalUnits

    process: Processes

    def unit_names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self.process.units)

    def offers(self, power: type) -> bool:
        """Limits take control groups."""
        return super().offers(power) and (power is not CanLimit or self.process.cgroups)

    def labels(self) -> Mapping[str, Mapping[str, str]]:
        """What the units say."""
        return {name: unit.labels for name, unit in self.process.units.items()}

    def files(self) -> Mapping[str, Mapping[str, str]]:
        """What the units say."""
        return {name: unit.files for name, unit in self.process.units.items()}

    def configuration(self, unit: str, base: Path) -> Mapping[str, str]:
        """Files that are there before the run; those that the soak file writes are in `files`."""
        spec = self.process.units[unit]
        if spec.cwd is None and spec.files:
            return {}
        found: dict[str, str] = {}
        for option, value in zip(spec.command, (*spec.command[1:], ""), strict=True):
            name = value if option in _CONFIG else option.partition("=")[2]
            if name and option.partition("=")[0] in _CONFIG:
                with suppress(OSError, UnicodeDecodeError):
                    found[name] = (base / (spec.cwd or "") / name).read_text()
        return found

    def after(self) -> Mapping[str, tuple[str, ...]]:
        """What the units say."""
        return {name: unit.after for name, unit in self.process.units.items()}

    def volume(self, unit: str, path: str, base: Path) -> Path:  # noqa: ARG002  # it is the same for all
        """Return the directory itself."""
        return base / path

    def problems(self, base: Path) -> list[str]:
        """Commands and working directories that are not there, ports that somebody else listens on."""
        listening = listening_ports()
        found = [
            f"{name}: {what}"
            for name, unit in self.process.units.items()
            for what in problems(unit, base, listening)
        ]
        try:
            if self.process.cgroups:
                cgroups.find()
        except (EngineError, OSError) as error:
            found.append(str(error))
        return found

    def open(self, context: EngineContext) -> AbstractAsyncContextManager[Units]:
        """Run the units' side; on the way out all of them are killed, those that left their group too."""
        return self._open(context)

    @asynccontextmanager
    async def _open(self, context: EngineContext) -> AsyncIterator[Units]:
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            place = await to_thread.run_sync(cgroups.find) if self.process.cgroups else None
            units = LocalUnits(self.process.units, context, group, place)
            try:
                yield units
            except Exception as error:  # noqa: BLE001  # raised below, as it is: this group is nobody else's business
                failure = error
            finally:
                with anyio.CancelScope(shield=True):
                    await units.close()
        if failure:
            raise failure

    async def recover(self, context: EngineContext) -> list[str]:
        """End every process that carries the run's id in its environment, and its group."""
        ended = await to_thread.run_sync(end_survivors, context.run)
        if self.process.cgroups:
            await to_thread.run_sync(cgroups.remove_all, context.run)
        counts = Counter(survivor.unit or "no unit" for survivor in ended)
        return [
            f"ended {count} process{'es' if count > 1 else ''} of {unit}" for unit, count in counts.items()
        ]
