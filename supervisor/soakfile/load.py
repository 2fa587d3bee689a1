"""A soak file's text -> the soak, checked whole: all that is wrong with it is said at once, each thing at its place.

    text -> document (YAML, places) -> plain data (variables put in, sugar written out) -> Soak (models) -> checks across entries

A step that finds something wrong does not keep the next ones from looking, as long as there is something to look at.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path as FilePath
from typing import Any, Final

from supervisor.broker.embedded import ENGINE
from supervisor.broker.ports import free_ports
from supervisor.soak import Soak
from supervisor.soakfile.document import TOP, Document, Flaw, Mark, describe
from supervisor.soakfile.environment import plain_data
from supervisor.soakfile.errors import Problem, SoakFileError, dotted, ways
from supervisor.soakfile.masking import mask_source, secret_fields, unmask_source
from supervisor.soakfile.reader import Unreadable, read
from supervisor.soakfile.sugar import SOURCE
from supervisor.soakfile.validation import Validation
from supervisor.soakfile.wording import Finding
from supervisor.telemetry.logging import MASK

MAX_BYTES: Final = 256 * 1024
"""Enough for some thousand units; the YAML parser would take seconds for more."""
MAX_PROBLEMS: Final = 100
"""Nobody reads on, and saying what is wrong takes longer than reading what is right."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A soak file that can be used."""

    soak: Soak
    path: FilePath
    base: FilePath
    """The folder that relative paths in the file are seen from."""
    resolved: str
    """The file as written: variables left as they are, secrets that are written out in it masked."""
    secrets: frozenset[str]
    """The values of all secret fields, to be masked in free text."""
    document: Document
    """Where everything is in the file."""
    validation: Validation = field(repr=False)

    @property
    def data(self) -> Mapping[str, Any]:
        """The file as plain data, variables put in: secrets too, so it is to be compared and never shown."""
        return self.validation.data

    def recheck(self, soak: Soak) -> list[Problem]:
        """Return what does not fit together in this file's soak now that more is known of it."""
        found = islice(self.validation.recheck(soak), MAX_PROBLEMS)
        return [self.validation.problem(str(self.path), finding) for finding in found]

    def problem(self, path: tuple[str, ...], message: str) -> Problem:
        """Return a problem at a place in the file."""
        return self.validation.problem(str(self.path), Finding(path, message, key=True))

    def where(self, *path: str | int) -> str:
        """Return `file:line:column: path` of a key, or of the nearest thing around it, for a message of one's own."""
        if path[:2] == ("engines", ENGINE) and not self.document.has(path):
            path = SOURCE
        *_, (_, place) = self.document.walk(path)
        return f"{self.path}:{place.key}: {dotted(path)}"


def load(
    path: FilePath,
    env: Mapping[str, str] | None = None,
    *,
    overrides: Mapping[str, str | int | None] | None = None,
    base: FilePath | None = None,
    ports: Iterator[int] | None = None,
) -> Loaded:
    """Read a soak file; SoakFileError with everything that is wrong with it.

    `env` is this process's environment unless given. `overrides` are keys of the file that the command line gives in its stead,
    `duration` and `seed`; None is no override. Relative paths in the file are seen from `base`, its folder unless given. `ports`
    are free ones for an embedded broker.
    """
    return parse(
        _read_text(path),
        path,
        os.environ if env is None else env,
        overrides={key: value for key, value in (overrides or {}).items() if value is not None},
        base=path.parent if base is None else base,
        ports=free_ports() if ports is None else ports,
    )


def load_saved(path: FilePath, original: FilePath) -> Loaded:
    """Read the copy of a soak file that a run directory has; SoakFileError if that cannot be done.

    Secrets that were written out in the file itself are masked in the copy: they are taken from there, if it still has them.
    """
    loaded = load(path, base=original.parent)
    masked = [
        at for at, value in secret_fields(loaded.soak) if value.endswith(MASK) and loaded.document.has(at)
    ]
    if not masked:
        return loaded
    try:
        document = read(_read_text(original))
    except (SoakFileError, Unreadable):
        return loaded  # whoever is asked with the masked secret says that it is none
    text = unmask_source(_read_text(path), loaded.document, masked, document)
    return parse(text, path, os.environ, overrides={}, base=original.parent, ports=free_ports())


def parse(
    text: str,
    path: FilePath,
    env: Mapping[str, str],
    *,
    overrides: Mapping[str, str | int],
    base: FilePath,
    ports: Iterator[int],
) -> Loaded:
    """Do what `load` does for a text that was read from `path`."""
    try:
        document = read(text)
    except Unreadable as error:
        raise SoakFileError([_problem(str(path), flaw) for flaw in error.flaws]) from error
    data, unset = plain_data(document.root, env)
    flaws = [*document.flaws, *unset]
    if not isinstance(data, dict):
        found = "the file is empty" if data is None else f"expected a mapping, found {describe(data)}"
        flaws.append(Flaw(TOP, (), f"{found}: a soak file begins with soak: NAME"))
        raise SoakFileError([_problem(str(path), flaw) for flaw in flaws])
    validation = Validation({**data, **overrides}, frozenset(overrides), document, base, ports)
    known = {flaw.path for flaw in flaws}
    news = (finding for finding in validation.findings() if known.isdisjoint(ways(finding.path)))
    problems = [_problem(str(path), flaw) for flaw in flaws]
    problems += (validation.problem(str(path), finding) for finding in islice(news, MAX_PROBLEMS + 1))
    if len(problems) > MAX_PROBLEMS:
        end = Mark(text.count("\n") + 1, 1)
        more = Flaw(end, (), f"there is more wrong: only {MAX_PROBLEMS} problems are shown")
        problems[MAX_PROBLEMS:] = [_problem(str(path), more)]
    if problems or (soak := validation.soak) is None:
        raise SoakFileError(problems)
    secrets = [(at, value) for at, value in secret_fields(soak) if document.has(at)]
    given = "".join(f"# soakd: --{key} {value}\n" for key, value in overrides.items())
    resolved = given + mask_source(text, document, [at for at, _ in secrets])
    hidden = frozenset(value for _, value in secrets if value)
    return Loaded(soak, path, base, resolved, hidden, document, validation)


def _problem(file: str, flaw: Flaw) -> Problem:
    return Problem(file, flaw.mark.line, flaw.mark.column, dotted(flaw.path), flaw.message)


def _read_text(path: FilePath) -> str:
    """Return a file's text; SoakFileError if it has none."""

    def refuse(why: str) -> SoakFileError:
        return SoakFileError([Problem(str(path), 0, 0, "", why)])

    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError as error:
        raise refuse("this is a directory: name the soak file in it") from error
    except OSError as error:
        raise refuse(f"cannot read the soak file: {(error.strerror or str(error)).lower()}") from error
    if len(data) > MAX_BYTES:
        raise refuse(f"this is larger than {MAX_BYTES // 1024} kB, and surely no soak file")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode(errors="replace")) + 1
        what = f"the byte 0x{data[error.start]:02X} is not UTF-8: save the file as UTF-8"
        raise SoakFileError([Problem(str(path), line, column, "", what)]) from error
