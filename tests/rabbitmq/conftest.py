"""One namespace per test on the session's broker."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from rabbitmq.harness import RabbitHarness


@pytest.fixture
async def harness(amqp_url: str) -> AsyncIterator[RabbitHarness]:
    harness = RabbitHarness(amqp_url)
    yield harness
    await harness.close()
