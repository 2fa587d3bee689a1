from __future__ import annotations

import pytest
from harness import Harness, ProcessHarness


@pytest.fixture(params=[ProcessHarness()], ids=lambda harness: type(harness).__name__)
def harness(request: pytest.FixtureRequest) -> Harness:
    """Every kind of engine there is: the contract holds for all of them."""
    kind: Harness = request.param
    return kind
