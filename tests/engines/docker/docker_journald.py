"""A private engine beside a journald of its own: both in a mount namespace where nothing of the machine's journal can be seen."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docker_client import PATIENCE
from docker_engine import PrivateEngine, private_engine

JOURNALD = Path("/lib/systemd/systemd-journald")
SCRIPT = f"""
set -e
for folder in /run/systemd /run/log /var/log; do mkdir -p $folder; mount -t tmpfs tmpfs $folder; done
mount --bind /dev/null /dev/kmsg 2>/dev/null || :
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d
printf '[Journal]\\nStorage=volatile\\nAudit=no\\nReadKMsg=no\\nRateLimitIntervalSec=0\\n' > /run/systemd/journald.conf.d/tests.conf
exec {JOURNALD}
"""


def missing() -> str:
    """Say what keeps journald from running here; empty if nothing does."""
    if not JOURNALD.exists():
        return f"there is no {JOURNALD}"
    if not Path("/etc/machine-id").exists():
        return "the machine has no /etc/machine-id"
    wanting = [program for program in ("unshare", "nsenter", "mount") if not shutil.which(program)]
    return f"{', '.join(wanting)} missing" if wanting else ""


@contextmanager
def engine_with_journald(root: Path) -> Iterator[PrivateEngine]:
    """Run them; both are gone afterwards."""
    with (root / "journald.log").open("wb") as log:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT]
        journald = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        seen_by_it = Path("/proc", str(journald.pid), "root")
        listens, deadline = seen_by_it / "run/systemd/journal/socket", time.monotonic() + PATIENCE
        while not listens.exists() or JOURNALD.name not in Path(f"/proc/{journald.pid}/cmdline").read_text():
            assert journald.poll() is None, (root / "journald.log").read_text()
            assert time.monotonic() < deadline, "journald does not start"
            time.sleep(0.01)
        with private_engine(root, "nsenter", f"--mount=/proc/{journald.pid}/ns/mnt") as engine:
            yield engine
    finally:
        journald.kill()
        journald.wait(PATIENCE)
