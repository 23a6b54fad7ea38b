"""A host cut down to the path of one message: registry, a chain of three links, the handler behind it, the dispatcher.

The links do what cross-cutting links do (read the envelope, look at the clock, count) and pass the event on; the
handler does no more than the handlers of the other contenders.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import ClassVar, final

from rockbot.chain import Chain
from rockbot.context import Context
from rockbot.dispatcher import Dispatcher
from rockbot.errors import PermanentFailure
from rockbot.events.event import Event
from rockbot.events.registry import EventRegistry
from rockbot.handler import CallNext
from rockbot.outgoing import Outgoing
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.identity import derive_id
from rockbot_messaging.ports import MessagePublisher
from rockbot_messaging.subscriptions import WorkSubscription
from tests.benchmarks.order import BODY, Order

__all__ = ["ORDERS", "TOPIC", "OrderPlaced", "dispatcher", "envelope"]

logger = logging.getLogger("rockbot.bench")

TOPIC = "bench.order"
ORDERS = WorkSubscription(name="orders", patterns=("bench.#",), prefetch=100)


class OrderPlaced(Order, Event):
    """The order as an event of ours."""

    type_name: ClassVar[str] = "bench.order"
    topics: ClassVar[tuple[str, ...]] = ("bench.*",)


@final
class LogLink:
    """Logs at DEBUG, which is off."""

    handles = (Event,)

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("begins", extra={"message_id": context.envelope.message_id})
        await call_next(event, context)


@final
class DeadlineLink:
    """Refuses what nobody waits for any more."""

    handles = (Event,)

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        remaining = context.remaining
        if remaining is not None and remaining <= 0:
            raise PermanentFailure("expired")
        await call_next(event, context)


@final
class TenantLink:
    """Lets one tenant through."""

    handles = (Event,)

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        if context.envelope.tenant != "default":
            raise PermanentFailure("another tenant")
        await call_next(event, context)


@final
class WorkHandler:
    """The work, behind the three links."""

    handles = (OrderPlaced,)

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work

    async def handle(self, event: OrderPlaced, context: Context, call_next: CallNext) -> None:
        assert event.lines
        await self._work()


def dispatcher(publisher: MessagePublisher, work: Callable[[], Awaitable[None]]) -> Dispatcher:
    """The path with a handler that awaits `work` for every message."""
    clock = SystemClock()
    registry = EventRegistry([OrderPlaced])
    chain = Chain(
        [
            (100, "log", LogLink()),
            (200, "deadline", DeadlineLink()),
            (500, "tenant", TenantLink()),
            (1000, "work", WorkHandler(work)),
        ],
        registry,
    )
    outgoing = Outgoing(publisher, clock=clock, source="bench")
    return Dispatcher(registry=registry, chain=chain, outgoing=outgoing, clock=clock, source="bench")


def envelope(number: int) -> MessageEnvelope:
    """One message to be published, with an id and a deadline of its own."""
    now_ms = SystemClock().now_ms()
    return MessageEnvelope(
        topic=TOPIC,
        body=BODY,
        message_id=derive_id("bench", str(number)),
        type=OrderPlaced.type_name,
        source="bench",
        timestamp_ms=now_ms,
        deadline_ms=now_ms + 600_000,
    )
