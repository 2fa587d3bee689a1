"""The section of summary.md about violated invariants: the first of them, with all that was found out about each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from supervisor.judge.markdown import text
from supervisor.judge.tally import Tally

DETAIL: Final = 1000
"""Characters of the sentence that tells what happened."""
VALUE: Final = 300
"""Characters of one fact."""
FACTS: Final = 50
"""Facts of one violation."""


def violations(tally: Tally) -> Iterator[str]:
    """Yield the first violations, and what is known of each."""
    if not tally.violations:
        return
    yield "## Violated invariants"
    yield ""
    for event in tally.violations:
        yield f"**{text(event.invariant)}**, {text(event.subject)}: {text(event.detail, DETAIL)}"
        yield ""
        facts = [*_facts(event.data)]
        yield from (f"- {text(name)}: {text(value, VALUE)}" for name, value in facts[:FACTS])
        if len(facts) > FACTS:
            yield f"- … and {len(facts) - FACTS:,} more facts, in `journal-*.jsonl`"
        yield ""
    count = sum(some.count for some in tally.invariants.values())
    if count > len(tally.violations):
        yield f"… and {count - len(tally.violations):,} more, in `journal-*.jsonl`."
        yield ""


def _facts(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each fact by its name; what has parts, such as replicas, part by part."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from ((f"{name} {part}", _brief(one)) for part, one in value.items())
        else:
            yield name, str(value)


def _brief(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_brief(one)}" for name, one in value.items() if one not in ("", {}))
    return str(value)
