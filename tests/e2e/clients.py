"""Clients of a host that is tried with bad input: a foreign one over the broker, one inside of an embedded host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Protocol
from uuid import uuid4

import aio_pika

from rockbot.operators.bus import BusOperator
from rockbot.processes import Embedded
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import Door, MessageBus
from rockbot_messaging.verdicts import Ack, Verdict


class Client(Protocol):
    """Somebody who sends messages, reads answers, and may look into the dead-letter queues."""

    operator: BusOperator
    bus: MessageBus

    async def send(self, topic: str, body: bytes, headers: Mapping[str, Any], **properties: Any) -> str:
        """Publish; returns the correlation id, drawn unless given."""
        ...

    async def answer(self, correlation_id: str) -> dict[str, Any]: ...


class Answers:
    """Answers by their correlation ids."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}

    def came(self, correlation_id: str | None, body: bytes) -> None:
        future = self._future(correlation_id or "")
        assert not future.done(), f"a second answer to {correlation_id}"
        future.set_result(json.loads(body))

    async def answer(self, correlation_id: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            return await self._future(correlation_id)

    def _future(self, correlation_id: str) -> asyncio.Future[dict[str, Any]]:
        return self._waiting.setdefault(correlation_id, asyncio.get_running_loop().create_future())


class Foreign(Answers):
    """A client of the broker that knows nothing of ours."""

    def __init__(self, bus: MessageBus, exchange: aio_pika.abc.AbstractExchange, replies: str) -> None:
        super().__init__()
        self.bus = bus
        self.operator = BusOperator(bus, clock=SystemClock(), ids=RandomIds())
        self.exchange = exchange
        self.replies = replies

    async def send(self, topic: str, body: bytes, headers: Mapping[str, Any], **properties: Any) -> str:
        given = {"correlation_id": str(uuid4()), "reply_to": self.replies, **properties}
        await self.exchange.publish(aio_pika.Message(body, headers=dict(headers), **given), topic, mandatory=False)
        return str(given["correlation_id"])


class Inside(Answers):
    """A client on the in-memory bus."""

    _FIELDS: Mapping[str, str] = {"rockbot-deadline": "deadline_ms", "rockbot-conversation-id": "conversation_id"}

    def __init__(self, embedded: Embedded) -> None:
        super().__init__()
        self.bus = embedded.bus
        self.operator = BusOperator(embedded.bus, clock=SystemClock(), ids=RandomIds())
        self.replies = ""

    async def receive(self, envelope: MessageEnvelope) -> Verdict:
        self.came(envelope.correlation_id, envelope.body)
        return Ack()

    async def send(self, topic: str, body: bytes, headers: Mapping[str, Any], **properties: Any) -> str:
        given = {"correlation_id": str(uuid4()), "reply_to": self.replies, "type": "", **properties}
        given.pop("content_encoding", None)
        given |= {self._FIELDS[name]: value for name, value in headers.items()}
        envelope = MessageEnvelope(topic=topic, body=body, message_id=str(uuid4()), **given)
        await self.bus.publisher.publish(envelope, door=Door.PUBLIC)
        return str(given["correlation_id"])
