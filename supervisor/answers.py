"""Answers over HTTP, pure: where they are asked for, and what they are held against. Probes and loads say it alike."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, JsonValue, SecretStr
from yarl import URL

from supervisor.values import Comparison

BODY: Final = 1_000_000
"""Bytes of an answer that are read; what comes after them is not looked at."""


class WrongAnswerError(ValueError):
    """An answer that is no JSON, or lacks what is looked for; the text says it."""


def _url(text: str) -> str:
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("expected a URL such as http://127.0.0.1:8000/ready")
    if not _HOST.fullmatch(url.host) or url.explicit_port == 0:
        raise ValueError("expected a host without spaces, and a port from 1 to 65535 if there is one")
    if url.user or url.password:
        raise ValueError("leave user and password out of the URL: use headers, which are kept secret")
    return text


_HOST: Final = re.compile(r"[^\s\x00-\x1f]+")
Url = Annotated[str, AfterValidator(_url)]
"""An address, without credentials."""


_NO_LINE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_SET: Final = frozenset({"content-length", "transfer-encoding"})
"""Headers that follow from the body."""
_HEADER: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")


def fits_header(text: str) -> bool:
    """Say whether a header can carry a text: one line, without control characters and halves of surrogate pairs."""
    return not _NO_LINE.search(text)


def _header_name(name: str) -> str:
    if name.lower() in _SET:
        raise ValueError("leave it out: it follows from the body")
    if _HEADER.fullmatch(name):
        return name
    raise ValueError("expected letters, digits and hyphens, as in X-Request-Id")


def _header(secret: SecretStr) -> SecretStr:
    if fits_header(secret.get_secret_value()):
        return secret
    raise ValueError(
        "expected one line without control characters (a text block ends with a line break unless it begins with >- or |-)"
    )


Headers = dict[Annotated[str, AfterValidator(_header_name)], Annotated[SecretStr, AfterValidator(_header)]]
"""What a request has beside its URL; values are secret."""


def _compares(wanted: JsonValue) -> bool:
    return isinstance(wanted, str) and re.match(r"\s*(<|>|==|!=)", wanted) is not None


def _wanted(value: JsonValue) -> JsonValue:
    """Refuse a comparison that is none."""
    if _compares(value):
        Comparison.parse(value)
    return value


Wanted = Annotated[JsonValue, AfterValidator(_wanted)]
"""A value, or a text such as `< 5` that it is compared with."""


def in_words(wanted: JsonValue) -> str:
    """Write what is wanted of a value."""
    if _compares(wanted):
        return str(wanted).strip()
    return f"== {wanted if isinstance(wanted, str) else json.dumps(wanted)}"


def passes(wanted: JsonValue, found: JsonValue) -> bool:
    """Say whether a value is as wanted."""
    if _compares(wanted):
        return Comparison.parse(wanted).holds(found)
    return isinstance(wanted, bool) == isinstance(found, bool) and found == wanted


def decoded(text: str) -> JsonValue:
    """Return what a JSON answer says; WrongAnswerError for any other."""
    try:
        answer: JsonValue = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WrongAnswerError(f"the answer is no JSON: {beginning(text)}") from error
    return answer


def walk(answer: JsonValue, path: str) -> JsonValue:
    """Return what a dotted path leads to, such as `nodes.0.up`; WrongAnswerError if it leads nowhere."""
    value = answer
    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise WrongAnswerError(f"there is no {path} in the answer: {beginning(json.dumps(answer))}")
    return value


def differences(answer: JsonValue, wanted: Mapping[str, JsonValue]) -> str:
    """Say which values of an answer, by their paths, are not as wanted; empty if all are. WrongAnswerError if one is missing."""
    found = {path: walk(answer, path) for path in wanted}
    return "; ".join(
        f"{path} is {json.dumps(found[path])[:200]}"
        for path, value in wanted.items()
        if not passes(value, found[path])
    )


def beginning(text: str) -> str:
    """Return how a text begins, on one line."""
    line = " ".join(text.split())
    return f"{line[:200]}…" if len(line) > 200 else line or "(nothing)"
