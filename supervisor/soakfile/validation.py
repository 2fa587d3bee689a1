"""Plain data -> Soak, and everything that is wrong with it, each thing at its place in the document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import ValidationError

from supervisor.soak import Soak
from supervisor.soakfile import checks, sugar
from supervisor.soakfile.document import Document, Mark, Scalar
from supervisor.soakfile.errors import Path, Problem, dotted
from supervisor.soakfile.parts import readable, whole
from supervisor.soakfile.schema import json_schema
from supervisor.soakfile.shape import Shape, member
from supervisor.soakfile.wording import Finding, Wording
from supervisor.telemetry.logging import Masker

EMPTY: Final = "expected a value, found nothing: write one, or leave the key out"
SHORTEST: Final = 4
"""Characters of a value that is looked for in a message: a shorter one stands there by chance."""
_MANY: Final = 100


class Validation:
    """One file's data on its way to a soak."""

    def __init__(
        self,
        data: dict[str, Any],
        given: frozenset[str],
        document: Document,
        base: FilePath,
        ports: Iterator[int],
    ) -> None:
        """`given` are the keys that came from the command line; the other arguments are as in `load`."""
        self._data, self._given, self._document = data, given, document
        self._context = {"base": base}
        self._written = sugar.write_out(data, ports, base)
        self._error: ValidationError | None = None
        self.soak: Soak | None = None
        """The soak, unless its models refuse it; `findings` may have more to say."""
        try:
            self.soak = Soak.model_validate(self._written.data, context=self._context)
        except ValidationError as error:
            self._error = error

    @property
    def data(self) -> dict[str, Any]:
        """What the file says."""
        return self._data

    def findings(self) -> Iterator[Finding]:
        """Yield all that is wrong, at its path in the file, with no secret in any message."""
        shape = Shape(json_schema, self._data)
        empty = dict.fromkeys(islice(shape.empty(), _MANY), EMPTY)
        yield from (Finding(path, message) for path, message in empty.items())
        masker: Masker | None = None
        for finding in self._found(shape):
            path = self._written.source(finding.path)
            if path not in empty:
                masker = masker or Masker(shape.secrets())
                message = masker.text(self._as_written(path, finding.message))
                yield replace(finding, path=path, message=message)

    def recheck(self, soak: Soak) -> Iterator[Finding]:
        """Yield what does not fit together in the soak once its engines have found their units."""
        self.soak = soak
        yield from self.findings()

    def _found(self, shape: Shape) -> Iterator[Finding]:
        written = self._written
        yield from written.findings
        if written.error is not None:
            wording = Wording(self._document, self._data, shape, self._given)
            yield from wording.findings(written.error, sugar.SOURCE)
        if self._error is not None:
            yield from Wording(self._document, written.data, shape, self._given).findings(self._error)
        parts = readable(written.data, self._context) if self.soak is None else whole(self.soak, written.data)
        if not written.complete:
            parts = replace(parts, bad=parts.bad | {"engines", "broker"})
        yield from checks.check(parts)

    def _as_written(self, path: Path, message: str) -> str:
        """Return a message in which a text that came from the environment stands as it is written in the file."""
        if not self._document.has(path):
            return message
        *_, (node, _) = self._document.walk(path)
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or "${" not in node.value:
            return message
        value = str(member(self._data, path))
        return message.replace(value, node.value) if len(value) >= SHORTEST else message

    def problem(self, file: str, finding: Finding) -> Problem:
        """Put a finding at its place in the file."""
        path = finding.path
        if path and path[0] in self._given:
            return Problem(f"--{path[0]}", 0, 0, "", finding.message)
        *_, (node, place) = self._document.walk(path)
        mark = place.key if finding.key or not self._document.has(path) else place.mark
        if finding.offset is not None and isinstance(node, Scalar) and mark == node.mark:
            mark = _inside(node, mark, finding.offset)
        origin = f" (written at {place.origin})" if place.origin else ""
        return Problem(file, mark.line, mark.column, dotted(path), finding.message + origin)


def _inside(node: Scalar, mark: Mark, offset: int) -> Mark:
    """Return the place of a character of a text that stands on one line as it is; else the text's own."""
    start, end = node.span
    quotes = end - start - len(str(node.value))
    return Mark(mark.line, mark.column + quotes // 2 + offset) if quotes in (0, 2) else mark
