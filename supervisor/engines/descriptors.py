"""Room for open files: every unit that runs takes two of our descriptors, its pidfd and its output."""

from __future__ import annotations

import resource
from typing import Final

WANTED: Final = 65_536
"""Enough for some 30,000 units. Not as many as the kernel would give: units inherit the limit, and old programs close every
descriptor up to it one by one when they start."""


def allow_descriptors() -> int:
    """Raise the limit of open files from the usual 1,024, as far as we are allowed to; return what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
