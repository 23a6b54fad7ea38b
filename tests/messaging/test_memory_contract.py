"""The in-memory provider passes the conformance suite, with and without a file behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from rockbot_messaging.envelope import HeaderValue
from rockbot_messaging.memory import BusStorage, MemoryBroker, MemoryBus, SqliteBusStorage
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.testing import FakeClock, Features, SequenceIds
from rockbot_messaging.testing.contract import BusContract
from rockbot_messaging.testing.harness import DEFAULT_BODY_LIMIT


class MemoryHarness:
    """One broker on a clock that stands still; connections are buses."""

    def __init__(self, storage: BusStorage | None = None) -> None:
        self.features = Features(user_id="contract-user")
        self.clock = FakeClock()
        self.broker = MemoryBroker(clock=self.clock, ids=SequenceIds(), storage=storage)
        self.buses: list[MemoryBus] = []

    async def connect(self, *, max_body_bytes: int = DEFAULT_BODY_LIMIT) -> MemoryBus:
        bus = MemoryBus(broker=self.broker, max_body_bytes=max_body_bytes, user_id=self.features.user_id)
        await bus.open()
        self.buses.append(bus)
        return bus

    async def kill(self, bus: MessageBus) -> None:
        assert isinstance(bus, MemoryBus)
        await bus.kill()

    async def publish_foreign(
        self,
        topic: str,
        body: bytes,
        *,
        reply_to: str | None = None,
        correlation_id: str | None = None,
        message_id: str | None = None,
        content_type: str | None = None,
        headers: Mapping[str, HeaderValue] | None = None,
        app_id: str | None = None,
    ) -> None:
        await self.broker.publish_foreign(
            topic,
            body,
            reply_to=reply_to,
            correlation_id=correlation_id,
            message_id=message_id,
            content_type=content_type,
            headers=headers,
            app_id=app_id,
        )

    async def publish_garbage(self, topic: str) -> None:
        await self.broker.publish_garbage(topic)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    async def close(self) -> None:
        for bus in self.buses:
            await bus.close()


class TestMemoryBus(BusContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[MemoryHarness]:
        harness = MemoryHarness()
        yield harness
        await harness.close()


class TestMemoryBusOnSqlite(BusContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[MemoryHarness]:
        harness = MemoryHarness(SqliteBusStorage(tmp_path / "state.db"))
        yield harness
        await harness.close()
