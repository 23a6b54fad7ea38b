"""Offices over stores and brokers the tests drive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from inbox.office import ORDERS, Office, Story, connection
from rabbitmq.harness import RabbitHarness

from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateStore
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.memory import MemoryBroker
from rockbot_messaging.testing import FakeClock

OpenOffice = Callable[..., Awaitable[Office]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock) -> MemoryStateStore:
    store = MemoryStateStore(clock)
    await store.open()
    return store


@pytest.fixture(params=["memory", "sqlite"])
async def any_store(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> AsyncIterator[StateStore]:
    store: StateStore = MemoryStateStore(clock)
    if request.param == "sqlite":
        store = SqliteStateStore(tmp_path / "state.db", clock, busy_seconds=30)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def broker(clock: FakeClock) -> MemoryBroker:
    return MemoryBroker(clock=clock)


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
async def open_office(
    store: StateStore, broker: MemoryBroker, story: Story, clock: FakeClock
) -> AsyncIterator[OpenOffice]:
    """Opens one more process on the same store and broker; all are closed at the end."""
    opened: list[Office] = []

    async def open_(**how: Any) -> Office:
        bus = await connection(broker)
        subscription = how.get("subscription", ORDERS)
        await bus.declare([subscription])
        office = Office(f"office-{len(opened)}", how.pop("store", store), bus, story, clock, **how)
        opened.append(office)
        return office

    yield open_
    for office in opened:
        if office.reader is not None:
            await office.reader.stop(timeout=0)
        await office.inboxes.close(timeout=0)
        await office.bus.close()


@pytest.fixture
async def office(open_office: OpenOffice) -> Office:
    return await open_office()


@pytest.fixture
async def harness(amqp_url: str) -> AsyncIterator[RabbitHarness]:
    harness = RabbitHarness(amqp_url)
    yield harness
    await harness.close()
