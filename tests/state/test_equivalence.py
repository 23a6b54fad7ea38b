"""The stores behave alike: the same calls on each, any calls, give the same answers."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from state.calls import CALLS, answers_to

from rockbot.state.memory import MemoryStateStore
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.testing import FakeClock


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CALLS)
def test_any_calls_have_the_same_answers_in_memory_and_in_sqlite(calls):
    with tempfile.TemporaryDirectory() as folder:

        async def both():
            clocks = FakeClock(), FakeClock()
            return (
                await answers_to(MemoryStateStore(clocks[0]), clocks[0], calls),
                await answers_to(SqliteStateStore(Path(folder) / "state.db", clocks[1]), clocks[1], calls),
            )

        in_memory, in_sqlite = asyncio.run(both())
    assert in_memory == in_sqlite
