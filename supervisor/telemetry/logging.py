"""Structured logs: colour for a person at a terminal, one JSON object a line for everybody else."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, Protocol, TextIO, cast

import structlog

MASK = "***"


class Masker:
    """Replaces secret values wherever they turn up in a log line: free text is where passwords leak."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Longest first, so that a secret which contains another one is masked whole. Very short ones would mask at random.
        self._secrets = sorted((s for s in secrets if len(s) >= 4), key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return the text with every secret replaced."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def __call__(self, _: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Mask a log line, as a structlog processor."""
        return cast("MutableMapping[str, Any]", self._value(line)) if self._secrets else line

    def _value(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self._value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._value(item) for item in value]
        return value


class Stream(Protocol):
    """Where log lines go."""

    def write(self, text: str, /) -> int:
        """Take text."""

    def flush(self) -> None:
        """Pass on what was taken."""


def configure(stream: Stream, *, terminal: bool, secrets: Iterable[str] = (), level: str = "info") -> None:
    """Send our own log lines and those of the libraries to `stream`, in one format."""
    masker = Masker(secrets)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
        structlog.processors.StackInfoRenderer(),
    ]
    last: structlog.typing.Processor = (
        # Plain tracebacks: the default ones read source files on the event loop and show local variables, secrets among them.
        structlog.dev.ConsoleRenderer(
            colors=True, pad_event_to=36, exception_formatter=structlog.dev.plain_traceback
        )
        if terminal
        else structlog.processors.JSONRenderer(serializer=json.dumps, default=str)
    )
    errors: list[structlog.typing.Processor] = [] if terminal else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *errors, masker, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", stream)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *errors, masker, last],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # A broker that goes away is what a soak is about: nats-py's own complaints are told by our events.
    logging.getLogger("nats").setLevel(logging.CRITICAL)


def plain(level: str = "warning") -> None:
    """Configure logs for the short commands: to standard error, for a person."""
    configure(sys.stderr, terminal=sys.stderr.isatty(), level=level)
