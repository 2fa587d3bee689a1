"""junit.xml: one case for each threshold, violated invariant and episode, and one for the run as a whole.

An inconclusive case is an `error`, not `skipped`: Jenkins, GitLab and the usual GitHub actions show errors apart from failures and
turn the build red for both, while a skipped case leaves it green, which would be the silent pass that soakd promises not to make.
The case `verdict` carries all reasons, so what belongs to no threshold and no episode (a torn journal) turns the build red too.
`skipped` are only single episodes that show nothing (inject failed, the run ended first) while their fault was seen at other times.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple
from xml.etree import ElementTree as ET  # it only writes here

from supervisor.judge.counting import times
from supervisor.judge.document import iso
from supervisor.judge.episode import Episode, Outcome
from supervisor.judge.evaluation import Verdict
from supervisor.judge.tally import Tally
from supervisor.judge.verdict import Judgement

_TAGS: Final = {Verdict.PASS: "", Verdict.INCONCLUSIVE: "error", Verdict.FAIL: "failure"}
_FORBIDDEN: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot say at all, not even escaped."""


class _Case(NamedTuple):
    name: str
    tag: str
    """failure, error or skipped; empty: it passed."""
    why: str
    took: float = 0.0


def render(judgement: Judgement) -> str:
    """Return the text of junit.xml."""
    tally = judgement.tally
    soak = tally.started.soak if tally.started else "soak"
    root = ET.Element("testsuites", name=_clean(soak))
    suites = {
        "run": [_Case("verdict", _TAGS[judgement.verdict], "\n".join(judgement.reasons), tally.soaked)],
        "thresholds": [_Case(one.text, _TAGS[one.verdict], one.why) for one in judgement.thresholds],
        "invariants": _invariants(tally),
        "episodes": map(_episode, tally.episodes.listed()),
    }
    for name, cases in suites.items():
        _suite(root, f"{soak}.{name}", iso(tally.began), cases)
    for element in (root, *root):
        for name, tag in {
            "tests": "testcase",
            "failures": "failure",
            "errors": "error",
            "skipped": "skipped",
        }.items():
            element.set(name, str(sum(1 for _ in element.iter(tag))))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(root: ET.Element, name: str, began: str | None, cases: Iterable[_Case]) -> None:
    suite = ET.SubElement(root, "testsuite", name=_clean(name))
    if began:
        suite.set("timestamp", began)
    for case in cases:
        element = ET.SubElement(
            suite, "testcase", classname=_clean(name), name=_clean(case.name), time=f"{case.took:.3f}"
        )
        if case.tag:
            message = _clean(case.why.partition("\n")[0])
            ET.SubElement(element, case.tag, message=message).text = _clean(case.why)


def _invariants(tally: Tally) -> Iterator[_Case]:
    for name, some in tally.invariants.items():
        yield _Case(name, "failure", f"violated {times(some.count)}: {some}")


def _episode(episode: Episode) -> _Case:
    """Return what an episode says by itself, by the verdict's rules."""
    took = episode.closed.since(episode.intended) if episode.closed else 0.0
    if why := _failure(episode):
        return _Case(episode.id, "failure", why, took)
    if episode.outcome is Outcome.OPEN:
        why = "never closed: its fault may still be in place; run soakd recover"
        return _Case(episode.id, "error", why, took)
    if episode.inject_error:
        return _Case(episode.id, "skipped", f"inject failed: {episode.inject_error}", took)
    if episode.outcome is Outcome.UNSEEN:
        return _Case(episode.id, "skipped", "the run ended before anybody looked for its recovery", took)
    return _Case(episode.id, "", "", took)


def _failure(episode: Episode) -> str:
    """Return why an episode fails the verdict, empty if it does not."""
    if episode.undo_errors:
        return f"undo failed: {episode.broken}"
    if episode.outcome is Outcome.NOT_RECOVERED:
        return f"did not recover in time: {', '.join(episode.failing) or 'nothing says why'}"
    return f"not seen during it: {', '.join(episode.unmet)}" if episode.unmet else ""


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
