"""report.html: one page, whole by itself, whatever the texts in it are."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from judge_story import Story, long_night, patient, piece

from supervisor.journal.events import Phase, PhaseEntered
from supervisor.judge import page, summary
from supervisor.judge.verdict import judge

VOID = {"meta", "line", "polyline"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects what there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_has_a_picture_and_loads_nothing() -> None:
    text = page.render(judge(long_night().records))

    seen = Page(text)

    assert "script" not in seen.tags
    assert {"svg", "rect", "polyline", "table", "h1"} <= set(seen.tags)
    assert not [name for name, _ in seen.attributes if name in ("src", "href") or name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://(?!127\.0\.0\.1|www\.w3\.org/2000/svg)", text)


def test_the_page_says_all_that_the_summary_says() -> None:
    judgement = judge(long_night().records)
    told = " ".join("".join(Page(page.render(judgement)).text).split())

    for line in summary.render(judgement).splitlines():
        for word in re.findall(r"[A-Za-z0-9.,%]+", re.sub(r"[\\`*|]", " ", line)):
            assert word in told, line


@patient
@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_breaks_out(name: str, error: str) -> None:
    story = Story().begin(loads=("rpc",), facts={name: error}).wait(9).crash("worker", error or "x")
    story.window("rpc", piece(ok=1, failed=2, error=error or "y", first_failure=story.mono))

    seen = Page(page.render(judge(story.end().records)))

    assert not {"script", "img", "iframe", "a"} & set(seen.tags)


def test_a_baseline_and_a_run_without_time_are_drawn() -> None:
    assert "svg" not in Page(page.render(judge([]))).tags
    story = Story().begin(loads=("rpc",), baseline=60.0)
    story.tell(PhaseEntered(phase=Phase.BASELINE)).wait(10).operate().tell(
        PhaseEntered(phase=Phase.SOAKING)
    ).wait(10)

    assert "baseline: no faults" in page.render(judge(story.operate().end().records))
