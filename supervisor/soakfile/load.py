"""A soak file's text -> the soak, checked whole: all that is wrong with it is said at once, each thing at its place.

    text -> document (YAML, places) -> plain data (variables put in, sugar written out) -> Soak (models) -> checks across entries

A step that finds something wrong does not keep the next ones from looking, as long as there is something to look at.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import ValidationError

from supervisor.broker.embedded import free_ports
from supervisor.soak import Soak
from supervisor.soakfile import checks, sugar
from supervisor.soakfile.document import TOP, Document, Flaw, Mark, Scalar, describe
from supervisor.soakfile.environment import plain_data
from supervisor.soakfile.errors import Path, Problem, SoakFileError, dotted
from supervisor.soakfile.masking import mask_source, secret_fields
from supervisor.soakfile.parts import readable, whole
from supervisor.soakfile.reader import Unreadable, read
from supervisor.soakfile.schema import json_schema
from supervisor.soakfile.shape import Shape
from supervisor.soakfile.wording import Finding, Wording
from supervisor.telemetry.logging import Masker

MAX_BYTES: Final = 256 * 1024
"""Enough for some thousand units; the YAML parser would take seconds for more."""


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
    problems = [_problem(str(path), flaw) for flaw in flaws]
    if not isinstance(data, dict):
        found = "the file is empty" if data is None else f"expected a mapping, found {describe(data)}"
        flaw = Flaw(TOP, (), f"{found}: a soak file begins with soak: NAME")
        raise SoakFileError([*problems, _problem(str(path), flaw)])
    reading = _Reading(str(path), document, {**data, **overrides}, frozenset(overrides))
    soak, wrong = reading.validate(base, ports)
    problems += [
        problem for at, problem in wrong if not any(at[: len(flaw.path)] == flaw.path for flaw in flaws)
    ]
    if problems or soak is None:
        raise SoakFileError(problems)
    secrets = [(at, value) for at, value in secret_fields(soak) if document.has(at)]
    given = "".join(f"# soakd: --{key} {value}\n" for key, value in overrides.items())
    resolved = given + mask_source(text, document, [at for at, _ in secrets])
    return Loaded(soak, path, base, resolved, frozenset(value for _, value in secrets if value), document)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One file's data on its way to a soak."""

    file: str
    document: Document
    data: dict[str, Any]
    given: frozenset[str]
    """The keys that came from the command line."""

    def validate(
        self, base: FilePath, ports: Iterator[int]
    ) -> tuple[Soak | None, list[tuple[Path, Problem]]]:
        """Return the soak, and all that is wrong with it; None if what is wrong keeps it from being one."""
        written = sugar.write_out(self.data, ports, base)
        context = {"base": base}
        shape = Shape(json_schema(), self.data)
        findings = list(written.findings)
        soak = None
        try:
            soak = Soak.model_validate(written.data, context=context)
        except ValidationError as error:
            findings += Wording(self.document, written.data, shape, self.given).findings(error)
        parts = readable(written.data, context) if soak is None else whole(soak, written.data)
        if written.error is not None:
            findings += Wording(self.document, self.data, shape, self.given).findings(
                written.error, sugar.SOURCE
            )
        if not written.complete:
            parts = replace(parts, bad=parts.bad | {"engines", "broker"})
        findings += checks.check(parts)
        if empty := list(shape.empty()):
            what = "expected a value, found nothing: write one, or leave the key out"
            findings = [finding for finding in findings if finding.path not in empty]
            findings += [Finding(path, what) for path in empty]
        if findings:
            masker = Masker(shape.secrets())
            findings = [replace(finding, message=masker.text(finding.message)) for finding in findings]
        findings = [replace(finding, path=written.source(finding.path)) for finding in findings]
        return soak, [(finding.path, self.problem(finding)) for finding in findings]

    def problem(self, finding: Finding) -> Problem:
        """Put a finding at its place in the file."""
        path = finding.path
        if path and path[0] in self.given:
            return Problem(f"--{path[0]}", 0, 0, "", finding.message)
        *_, (node, place) = self.document.walk(path)
        mark = place.key if finding.key or not self.document.has(path) else place.mark
        if finding.offset is not None and isinstance(node, Scalar) and mark == node.mark:
            mark = _inside(node, mark, finding.offset)
        origin = f" (written at {place.origin})" if place.origin else ""
        return Problem(self.file, mark.line, mark.column, dotted(path), finding.message + origin)


def _inside(node: Scalar, mark: Mark, offset: int) -> Mark:
    """Return the place of a character of a text that stands on one line as it is; else the text's own."""
    start, end = node.span
    quotes = end - start - len(str(node.value))
    return Mark(mark.line, mark.column + quotes // 2 + offset) if quotes in (0, 2) else mark


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
