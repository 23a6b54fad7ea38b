"""The stores a machine may run on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateStore
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> AsyncIterator[StateStore]:
    made: StateStore = (
        MemoryStateStore(clock) if request.param == "memory" else SqliteStateStore(tmp_path / "state.db", clock)
    )
    await made.open()
    yield made
    await made.close()
