"""Stores to test, on a clock the tests drive."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("rockbot.state.contract")

from rockbot_messaging.testing import FakeClock  # noqa: E402 - after the assertions of the suites are rewritten


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def advance(clock):
    async def advance(seconds: float) -> None:
        clock.advance(seconds)

    return advance
