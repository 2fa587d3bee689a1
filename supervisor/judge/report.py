"""Writes the reports of a judgement into the run directory. The caller does so in the journal's writer thread."""

from __future__ import annotations

import os
from pathlib import Path

from supervisor.judge import document, evidence, junit, page, summary
from supervisor.judge.verdict import Judgement

FILES = ("verdict.json", "junit.xml", "summary.md", "evidence.csv", "report.html")


def render(run_dir: Path, judgement: Judgement) -> dict[str, str]:
    """Return the text of each report by its file name. Pure."""
    texts = (
        document.render(judgement),
        junit.render(judgement),
        summary.render(judgement, str(run_dir)),
        evidence.render(judgement),
        page.render(judgement, str(run_dir)),
    )
    return dict(zip(FILES, texts, strict=True))


def write_reports(run_dir: Path, judgement: Judgement) -> None:
    """Write all reports, each whole or not at all; an older one is replaced. OSError if the disk does not take them."""
    for name, text in render(run_dir, judgement).items():
        draft = run_dir / f".{name}.part"
        try:
            with draft.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(run_dir / name)
        finally:
            draft.unlink(missing_ok=True)
