"""A broker, a store and a desk for the letters of two subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from letters.scene import Scene

from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateStore
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.memory import MemoryBroker, SqliteBusStorage
from rockbot_messaging.testing import FakeClock, SequenceIds


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


@pytest.fixture
async def scene(store: StateStore, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Scene]:
    durable = isinstance(store, SqliteStateStore)
    storage = SqliteBusStorage(tmp_path / "state.db") if durable else None
    made = Scene(store, clock, MemoryBroker(clock=clock, ids=SequenceIds(1), storage=storage))
    await made.open()
    yield made
    await made.close()
    await asyncio.sleep(0)
