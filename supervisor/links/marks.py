"""How the process of the links is found, and what it says of itself."""

from __future__ import annotations

from typing import Final

MARK: Final = "SOAKD_LINKS"
"""The variable in its environment that names the run. Not that of all other processes (`SOAKD_RUN`), which are ended before anything
is undone: links carry on until the end of that."""
CONTROLLED: Final = "soakd-links"
PLAIN: Final = "soakd-plain"
"""What `/proc/<pid>/comm` says of it: while its daemon lives, and once it has become plain relays without one."""
