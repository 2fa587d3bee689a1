"""The JSON schema of the soak file (draft 2020-12), for editors and for our own messages.

Made from the models, so it knows every kind that is registered. What the models cannot say is put right here: the sugar that is
written out before they see it (`broker: embedded`), variables wherever a value has a form of its own, defaults as one writes them,
and that a key is left out rather than left empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import cache
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from supervisor.broker.embedded import Embedded
from supervisor.soak import Soak
from supervisor.values import DURATION, RATE, SHARE, SIZE, THROUGHPUT, Intensity, format_duration, format_size

Schema = dict[str, Any]

VARIABLE: Final[Schema] = {
    "type": "string",
    "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
    "description": "A value from the environment: ${NAME} or ${NAME:-default}.",
}
_VARIABLE_REF: Final[Schema] = {"$ref": "#/$defs/Variable"}

_WRITTEN: Final[Mapping[str, Callable[[float], str]]] = {
    DURATION: lambda seconds: format_duration(seconds) if seconds else "0s",
    RATE: lambda rate: f"{rate:g}/s",
    SHARE: lambda share: f"{share * 100:g}%",
    SIZE: lambda size: format_size(int(size)),
    THROUGHPUT: lambda rate: f"{format_size(int(rate))}/s",
}
_NOTES: Final = ("description", "default", "examples")
_OF_MANY: Final = ("properties", "patternProperties", "$defs")
_OF_ONE: Final = ("items", "additionalProperties")
_OF_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_DROPPED: Final = ("title", "gt", "ge", "lt", "le")
"""Names of our classes, and limits that pydantic has no word for beside a form of our own."""


@cache
def json_schema() -> Schema:
    """Return the JSON schema of the soak file. It is shared: not to be changed."""
    made = Soak.model_json_schema(schema_generator=_Generator)
    embedded = Embedded.model_json_schema(schema_generator=_Generator)
    made["$defs"] |= {**embedded.pop("$defs", {}), "Embedded": embedded}
    _allow_embedded(made["$defs"]["Broker"])
    schema = _put_right(made)
    schema["$defs"]["Variable"] = VARIABLE
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": "soakd soak file", **schema}


class _Generator(GenerateJsonSchema):
    """Pydantic's schema without titles that repeat the keys, and with defaults as one writes them."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002  # pydantic's signature
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        default = made.get("default")
        if default is None and "anyOf" in made:  # left out, not left empty
            made["anyOf"] = [form for form in made["anyOf"] if form != {"type": "null"}]
        if default is None or isinstance(default, dict):  # the fields of a default model have their own
            made.pop("default", None)
        elif isinstance(default, int | float):
            forms = (made, *made.get("anyOf", ()))
            made["default"] = next(
                (write(default) for form in forms if (write := _WRITTEN.get(form.get("pattern", "")))),
                default,
            )
        return made

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, IntEnum):
            return dft.name
        return str(dft) if isinstance(dft, Intensity) else super().encode_default(dft)


def _allow_embedded(broker: Schema) -> None:
    """Add the sugar that stands for `servers` and more."""
    broker["properties"]["embedded"] = {"$ref": "#/$defs/Embedded"}
    broker["required"] = [key for key in broker["required"] if key != "servers"]
    broker["oneOf"] = [{"required": ["servers"]}, {"required": ["embedded"]}]


def _put_right(schema: Schema, *, alternative: bool = False) -> Schema:
    """Return a schema as an editor should see it, and all schemas in it. `alternative`: it is one of several."""
    made = {
        word: _word(word, value) for word, value in schema.items() if word not in _DROPPED and value != []
    }
    if "patternProperties" in made:  # which lets any other key pass
        [(made["propertyNames"], made["additionalProperties"])] = [
            ({"pattern": pattern}, inner) for pattern, inner in made.pop("patternProperties").items()
        ]
    if made.get("type") == "array" and "minLength" in made:
        made["minItems"] = made.pop("minLength")
    if len(made.get("anyOf", ())) == 1:
        made = {**made.pop("anyOf")[0], **made}
    if any(map(_has_form, made.get("anyOf", ()))) and {"type": "string"} not in made["anyOf"]:
        made["anyOf"].append(_VARIABLE_REF)
    return made if alternative or not _has_form(made) else _or_variable(made)


def _word(word: str, value: Any) -> Any:
    """Return what a word of a schema is given, put right."""
    if word in _OF_MANY:
        return {key: _put_right(inner) for key, inner in value.items()}
    if word in _OF_LISTS:
        return [_put_right(inner, alternative=word == "anyOf") for inner in value]
    if word in _OF_ONE and isinstance(value, dict):
        return _put_right(value)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", value) if word == "description" else value


def _or_variable(form: Schema) -> Schema:
    """Let a variable stand instead."""
    notes: Schema = {word: form.pop(word) for word in _NOTES if word in form}
    return {**notes, "anyOf": [form, _VARIABLE_REF]}


def _has_form(schema: Schema) -> bool:
    """Say whether a value has to look like something that `${NAME}` does not look like."""
    return schema.get("type") in ("integer", "number", "boolean") or bool(
        schema.keys() & {"pattern", "enum", "const"}
    )
