"""What the JSON schema says about one place of a soak file: the keys it may have, and whether it is secret.

Pydantic's errors name neither. The schema knows every kind that is registered; a kind that a soak file brings itself (`python:`)
is open there, so nothing is suggested for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from supervisor.soakfile.errors import Path

Schema = Mapping[str, Any]


def has(data: Any, step: str | int) -> bool:
    """Say whether plain data has a member, be it null."""
    if isinstance(data, Mapping):
        return step in data
    return isinstance(data, list) and isinstance(step, int) and 0 <= step < len(data)


def child(data: Any, step: str | int) -> Any:
    """Return a member of plain data, None if there is none."""
    return data[step] if has(data, step) else None


def member(data: Any, path: Path) -> Any:
    """Return the value at a path of plain data, None if there is none."""
    for step in path:
        data = child(data, step)
    return data


def leaves(data: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every value of plain data that is neither a list nor a mapping, with its path."""
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(data, Mapping):
        items = data.items()
    elif isinstance(data, list):
        items = enumerate(data)
    else:
        yield path, data
    for step, inner in items:
        yield from leaves(inner, (*path, step))


class Shape:
    """A JSON schema, looked at along one file's data. It is made when it is asked: for a file that is right it never is."""

    def __init__(self, schema: Callable[[], Schema], data: Any) -> None:
        self._make, self._data = schema, data

    @cached_property
    def _schema(self) -> Schema:
        return self._make()

    @cached_property
    def _secret_keys(self) -> frozenset[str]:
        return frozenset(_secret_keys(self._schema))

    def keys(self, path: Path) -> list[str]:
        """Return the keys allowed in the mapping at a path, in the order of the schema."""
        return list(dict.fromkeys(key for schema in self._at(path) for key in schema.get("properties", ())))

    def description(self, path: Path) -> str:
        """Return what the schema says of the value at a path, if anything."""
        return next((schema["description"] for schema in self._steps(path) if "description" in schema), "")

    def secret(self, path: Path) -> bool:
        """Say whether the value at a path, or anything around it, is a secret."""
        if self._secret_keys.isdisjoint(path):
            return False
        ends = range(1, len(path) + 1)
        return any(schema.get("writeOnly", False) for end in ends for schema in self._at(path[:end]))

    def empty(self) -> Iterator[Path]:
        """Yield the path of everything that is left empty and may not be."""
        for path, value in leaves(self._data):
            if value is None and (schemas := self._at(path)):
                anything = not all(schemas)
                if not anything and {"type": "null"} not in schemas:
                    yield path

    def secrets(self) -> Iterator[str]:
        """Yield every text that stands where a secret belongs."""
        for path, value in leaves(self._data):
            if value is not None and self.secret(path):
                yield str(value)

    def _at(self, path: Path) -> list[Schema]:
        return self._open(self._steps(path), member(self._data, path))

    def _steps(self, path: Path) -> list[Schema]:
        """Return the schemas of a path's last step, references and alternatives as they stand."""
        found: list[Schema] = [self._schema]
        data = self._data
        for step in path:
            found = [inner for schema in self._open(found, data) for inner in _step(schema, step)]
            data = child(data, step)
        return found

    def _open(self, schemas: list[Schema], data: Any) -> list[Schema]:
        """Resolve references and alternatives; of several mappings keep those that fit the data best.

        Those are the ones whose required keys are all there, and of these the ones that share most keys with it.
        """
        flat: list[Schema] = []
        queue = list(schemas)
        while queue:
            schema = queue.pop(0)
            if "$ref" in schema:
                queue.append(self._schema["$defs"][schema["$ref"].rpartition("/")[2]])
            alternatives = [a for word in ("anyOf", "allOf", "oneOf") for a in schema.get(word, ())]
            queue += alternatives
            flat.append(schema)
        mappings = [schema for schema in flat if "properties" in schema]
        if not isinstance(data, Mapping) or len(mappings) < 2:
            return flat
        fits = [
            (data.keys() >= set(schema.get("required", ())), len(data.keys() & schema["properties"].keys()))
            for schema in mappings
        ]
        best = [schema for schema, fit in zip(mappings, fits, strict=True) if fit == max(fits)]
        return [schema for schema in flat if "properties" not in schema or schema in best]


def _secret_keys(schema: Any) -> Iterator[str]:
    """Yield the keys whose values, or what is directly in them, are secret."""
    if isinstance(schema, list):
        for inner in schema:
            yield from _secret_keys(inner)
    if isinstance(schema, Mapping):
        for key, value in schema.get("properties", {}).items():
            if '"writeOnly"' in json.dumps(value):
                yield key
        for inner in schema.values():
            yield from _secret_keys(inner)


def _step(schema: Schema, step: str | int) -> Iterator[Schema]:
    if isinstance(step, int):
        if isinstance(items := schema.get("items"), Mapping):
            yield items
        yield from schema.get("prefixItems", ())[step : step + 1]
    elif step in schema.get("properties", {}):
        yield schema["properties"][step]
    elif isinstance(rest := schema.get("additionalProperties"), Mapping):
        yield rest
