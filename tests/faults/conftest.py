from __future__ import annotations

import pytest
from scripted_fault import Stage, Watch

from supervisor.journal.writer import JournalWriter


@pytest.fixture
def watch(journal: JournalWriter) -> Watch:
    return Watch(journal)


@pytest.fixture
def stage(journal: JournalWriter, watch: Watch) -> Stage:
    return Stage(journal, watch)
