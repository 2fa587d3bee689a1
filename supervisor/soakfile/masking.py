"""Secrets: which values are, and the soak file without those that are written out in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pydantic import BaseModel, SecretBytes, SecretStr

from supervisor.soakfile.document import Document, Scalar
from supervisor.soakfile.errors import Path
from supervisor.telemetry.logging import MASK

_PROPERTIES: Final = re.compile(r"(?:[&!]\S*\s+)*")
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?\}", re.DOTALL)


def secret_fields(value: object, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield the path and value of every secret field of a model and of what is in it."""
    members: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, SecretStr):
        yield path, value.get_secret_value()
    elif isinstance(value, SecretBytes):
        yield path, value.get_secret_value().decode(errors="replace")
    elif isinstance(value, BaseModel):
        fields = type(value).model_fields
        members = ((field.alias or name, getattr(value, name)) for name, field in fields.items())
    elif isinstance(value, Mapping):
        members = value.items()
    elif isinstance(value, list | tuple):
        members = enumerate(value)
    for step, inner in members:
        yield from secret_fields(inner, (*path, step))


def mask_source(text: str, document: Document, paths: Iterable[Path]) -> str:
    """Return the file's text with the values at these paths masked, as far as they are not variables anyway."""
    return _with(
        text, document, {path: _masked(found) for path in paths if (found := _written(document, path))}
    )


def unmask_source(text: str, document: Document, paths: Iterable[Path], original: Document) -> str:
    """Return a masked file's text with the values at these paths as the original file has them, where it still does."""
    return _with(text, document, {path: found for path in paths if (found := _written(original, path))})


def _written(document: Document, path: Path) -> str:
    """Return the scalar at a path as it is written, empty if there is none."""
    way = list(document.walk(path))
    return str(way[-1][0].value) if len(way) > len(path) and isinstance(way[-1][0], Scalar) else ""


def _with(text: str, document: Document, values: Mapping[Path, str]) -> str:
    """Return a file's text with other scalars at these paths; an empty one leaves what is there."""
    spans: dict[tuple[int, int], str] = {}
    for path, value in values.items():
        way = list(document.walk(path))
        if len(way) > len(path) and isinstance(node := way[-1][0], Scalar):
            spans[node.span] = value
    for (start, end), value in sorted(spans.items(), reverse=True):
        written = text[start:end]
        properties = _PROPERTIES.match(written)
        kept = properties.end() if properties else 0
        rest = len(written.rstrip())
        if value and kept < rest:
            text = f"{text[: start + kept]}{json.dumps(value, ensure_ascii=False)}{text[start + rest :]}"
    return text


def _masked(written: str) -> str:
    """Return what takes the place of a secret; empty if nothing of it is written in the file."""
    variable = _VARIABLE.fullmatch(written)
    if variable is None:
        return MASK
    name, fallback = variable.groups()
    return f"${{{name}:-{MASK}}}" if fallback else ""
