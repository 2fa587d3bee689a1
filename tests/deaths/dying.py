"""soakd as it is, but for its death: SIGKILL at a random instant of one phase of one kind of fault.

    dying.py run FILE ...    the guardian, whose daemon is this program again

`SOAKD_DEATH` says when: `{"kind", "phase", "nth", "share", "both"}`: at this share of the nth time that the phase begins, measured by how
long it took the time before; `both`: the guardian a moment before. `SOAKD_PHASES` is a file in which every kind leaves its phase.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from supervisor import cli, guardian

WIDTH = 64
"""Bytes of a kind's line in the file of phases."""


class Death:
    def __init__(
        self, kinds: list[str], *, kind: str, phase: str, nth: int, share: float, both: bool
    ) -> None:
        self._file = os.open(os.environ["SOAKD_PHASES"], os.O_WRONLY | os.O_CREAT)
        self._kinds, self._when, self._nth, self._share, self._both = kinds, (kind, phase), nth, share, both
        self._began: dict[str, tuple[str, float]] = {}
        self._took = 0.0

    def enter(self, kind: str, phase: str) -> None:
        """A kind enters a phase; SIGKILL leaves what is written here, since it is the kernel's."""
        before, at = self._began.get(kind, ("", 0.0))
        now = time.monotonic()
        if (kind, before) == self._when:
            self._took = now - at
        self._began[kind] = phase, now
        os.pwrite(
            self._file, f"{kind} {phase}".ljust(WIDTH - 1).encode() + b"\n", self._kinds.index(kind) * WIDTH
        )
        if (kind, phase) == self._when:
            self._nth -= 1
            if not self._nth:
                threading.Thread(target=self._die, args=(self._share * self._took,), daemon=True).start()

    def _die(self, delay: float) -> None:
        time.sleep(delay)
        if self._both:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def arm() -> None:
    from supervisor.faults.registry import FAULTS  # noqa: PLC0415  # the guardian must not have it in memory

    death = Death(list(FAULTS.kinds), **json.loads(os.environ["SOAKD_DEATH"]))
    originals = {
        (kind, name): getattr(FAULTS.kinds[kind], name)
        for kind in FAULTS.kinds
        for name in ("aim", "inject", "undo")
    }
    for (kind, name), original in originals.items():
        setattr(FAULTS.kinds[kind], name, _watched(death, kind, name, original))


def _watched(death: Death, kind: str, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    after = {"aim": "aim", "inject": "hold", "undo": "-"}[name]

    async def method(*args: Any) -> Any:
        death.enter(kind, name)
        try:
            result = await original(*args)
        except BaseException:
            death.enter(kind, "-")
            raise
        if after != name:
            death.enter(kind, after)
        return result

    return method


if __name__ == "__main__":
    sys.setswitchinterval(1e-4)
    if sys.argv[1] == "run":
        sys.exit(guardian.main(sys.argv[2:], (sys.executable, "-P", __file__)))
    if sys.argv[1] == "daemon":
        arm()
    sys.exit(cli.main(sys.argv[1:]))
