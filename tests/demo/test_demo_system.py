from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo_system import E2E, SERVICES, DemoSystem, wait_for


@pytest.fixture
def system(tmp_path: Path) -> Iterator[DemoSystem]:
    system = DemoSystem(tmp_path)
    yield system
    system.close()


def passes(system: DemoSystem) -> None:
    """Run its tests; once more if a service crashed under them, as it may of what a broker does that has only just begun."""
    for _ in range(3):
        run = system.run("-m", "pytest", "-q", "-x", "test_workflow.py", "test_consumer_client.py", cwd=E2E)
        if run.returncode == 0 or all(system.processes[name].poll() is None for name in SERVICES):
            break
        system.wait_until_healthy()
    logs = "\n".join(system.log(name)[-2000:] for name in SERVICES)
    assert run.returncode == 0, run.stdout[-4000:] + logs
    assert "5 passed" in run.stdout


@pytest.mark.timeout(300)
def test_services_work_crash_when_the_broker_goes_away_and_work_again(system: DemoSystem) -> None:
    system.start_nodes()
    assert system.run("-m", "supervisor.demo", "check").returncode != 0
    system.start_services()
    system.wait_until_healthy()
    passes(system)

    system.stop(system.nodes)
    for name in SERVICES:
        process = system.processes[name]
        wait_for(lambda process=process: process.poll() is not None, lambda name=name: system.log(name))  # type: ignore[misc]
        assert process.returncode == 1
        last = system.log(name).splitlines()[-1]
        assert "Traceback (most recent call last):" in system.log(name)
        assert re.match(r"[\w.]*Error: ", last), last

    system.start_nodes()
    system.wait_until_healthy()
    passes(system)
