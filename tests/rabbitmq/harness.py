"""The conformance suite's view of a real RabbitMQ: a namespace of its own, strangers on plain aio-pika."""

from __future__ import annotations

import asyncio
import random
import struct
import uuid
from collections.abc import Mapping
from typing import Any, final

import aio_pika
import aiormq

from rockbot_messaging.clock import Clock, RandomIds, SystemClock
from rockbot_messaging.envelope import HeaderValue
from rockbot_messaging.ports import BusObserver
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from rockbot_messaging.rabbitmq.pausing import Chance
from rockbot_messaging.testing import Features
from rockbot_messaging.testing.harness import DEFAULT_BODY_LIMIT


@final
class RabbitHarness:
    """One namespace on one broker."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.namespace = f"t{uuid.uuid4().hex[:10]}"
        self.clock: Clock = SystemClock()
        self.features = Features(user_id=RabbitSettings(url=url).user, timestamp_precision_ms=1000)
        self._buses: list[RabbitBus] = []
        self._stranger: aio_pika.abc.AbstractConnection | None = None

    def settings(self, **changes: Any) -> RabbitSettings:
        """Settings for this namespace."""
        return RabbitSettings(url=self.url, namespace=self.namespace, **changes)

    async def connect(
        self,
        *,
        max_body_bytes: int = DEFAULT_BODY_LIMIT,
        observer: BusObserver | None = None,
        chance: Chance = random.random,
        **changes: Any,
    ) -> RabbitBus:
        settings = self.settings(max_body_bytes=max_body_bytes, **changes)
        bus = RabbitBus(settings, self.clock, RandomIds(), observer=observer, chance=chance)
        self._buses.append(bus)
        await bus.open()
        return bus

    async def kill(self, bus: RabbitBus) -> None:
        bus.kill()

    async def stranger(self) -> aio_pika.abc.AbstractChannel:
        """A channel of a client that knows nothing of us."""
        if self._stranger is None:
            self._stranger = await aio_pika.connect(self.url)
        return await self._stranger.channel()

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
        channel = await self.stranger()
        rpc = await channel.get_underlay_channel()
        properties = aiormq.spec.Basic.Properties(
            reply_to=reply_to,
            correlation_id=correlation_id,
            message_id=message_id,
            content_type=content_type,
            headers=dict(headers) if headers is not None else None,
            app_id=app_id,
        )
        if message_id is None:
            # The client library draws an id for whoever sets none; a stranger with nothing must be able to send nothing.
            await publish_raw(self.url, self.namespace, topic, body, properties.marshal())
        else:
            await rpc.basic_publish(body, exchange=self.namespace, routing_key=topic, properties=properties)
        await channel.close()

    async def publish_garbage(self, topic: str) -> None:
        # RabbitMQ itself refuses a property list that cannot be taken apart; a promise about the body it cannot check.
        await self.publish_foreign(topic, b"\xff\xfe", content_type="application/cloudevents+json; charset=UTF-8")

    async def advance(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()
        if self._stranger is not None:
            await self._stranger.close()


async def publish_raw(url: str, exchange: str, topic: str, body: bytes, properties: bytes) -> None:
    """Publish with a property list byte by byte, confirmed, on a connection of its own."""
    connection = await aiormq.connect(url)
    try:
        channel = await connection.channel(publisher_confirms=True)
        confirmed = asyncio.get_running_loop().create_future()
        channel.confirmations[1] = confirmed
        method = struct.pack(">HHH", 60, 40, 0) + _short(exchange) + _short(topic) + b"\0"
        content = struct.pack(">HHQ", 60, 0, len(body)) + properties
        frames = _frame(1, channel.number, method) + _frame(2, channel.number, content)
        if body:
            frames += _frame(3, channel.number, body)
        await connection.write_queue.put(aiormq.abc.ChannelFrame(payload=frames, should_close=False))
        async with asyncio.timeout(60):
            await confirmed
    finally:
        await connection.close()


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def _short(text: str) -> bytes:
    raw = text.encode()
    return bytes((len(raw),)) + raw
