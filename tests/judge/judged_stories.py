"""Stories to be judged, and what is shown of the one threshold that a story has."""

from __future__ import annotations

from typing import Any

from judge_story import Story, piece

from supervisor.journal.events import Reading
from supervisor.judge.evaluation import Checked
from supervisor.judge.verdict import judge

LAG = "soakd_event_loop_lag_seconds"
BLIND = Reading(probe="tcp x", ok=False, value=None, detail="no route to host")


def begun(**facts: object) -> Story:
    return Story().begin(**facts)


def passing() -> Story:
    """Tell of a load, an episode and an explained failure, all of it as it should be."""
    story = begun(
        units=("worker",), loads=("rpc",), faults=("restart-nats",), thresholds=("load rpc: ok >= 95%",)
    )
    return story.wait(10).operate().episode().window("rpc", piece("restart-nats#1:during", ok=9, failed=1))


def of(*texts: str, **facts: Any) -> Story:
    """Begin a soak with thresholds; its windows end at multiples of 10 s."""
    given: dict[str, Any] = {"loads": ("rpc",), "units": ("worker",), "thresholds": texts}
    return Story().begin(**(given | facts)).wait(9)


def only(story: Story) -> Checked:
    (checked,) = judge(story.records).thresholds
    return checked


def seen(story: Story) -> tuple[str, str]:
    checked = only(story)
    return checked.verdict, checked.shown
