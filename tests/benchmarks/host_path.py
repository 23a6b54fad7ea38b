"""A host cut down to the path of one message: registry, a chain of three links, the handler behind it, the dispatcher.

Two of the links are the ones that every host has, logging (at WARNING, as the other contenders log nothing per message)
and the deadline (which every message here has); the third reads the envelope as a policy does. The handler does no more
than the handlers of the other contenders.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import ClassVar, final

from rockbot.chain import Chain, Order
from rockbot.context import Context
from rockbot.dispatcher import Dispatcher
from rockbot.errors import PermanentFailure
from rockbot.events.event import Event
from rockbot.events.registry import EventRegistry
from rockbot.handler import CallNext
from rockbot.outgoing import Outgoing
from rockbot_handlers.deadline.link import DeadlineLink
from rockbot_handlers.logging.link import LoggingLink
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.identity import derive_id
from rockbot_messaging.ports import MessagePublisher
from rockbot_messaging.subscriptions import WorkSubscription
from tests.benchmarks.order import BODY
from tests.benchmarks.order import Order as OrderBody

__all__ = ["ORDERS", "TOPIC", "OrderPlaced", "dispatcher", "envelope"]

TOPIC = "bench.order"
ORDERS = WorkSubscription(name="orders", patterns=("bench.#",), prefetch=100)


class OrderPlaced(OrderBody, Event):
    """The order as an event of ours."""

    type_name: ClassVar[str] = "bench.order"
    topics: ClassVar[tuple[str, ...]] = ("bench.*",)


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
    quiet = logging.getLogger("rockbot.bench")
    quiet.setLevel(logging.WARNING)
    clock = SystemClock()
    registry = EventRegistry([OrderPlaced])
    chain = Chain(
        [
            (Order.LOGGING, "logging", LoggingLink(quiet)),
            (Order.DEADLINE, "deadline", DeadlineLink()),
            (Order.POLICY, "tenant", TenantLink()),
            (Order.WORK, "work", WorkHandler(work)),
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
