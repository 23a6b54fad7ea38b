"""A till: every payment adds to an account in the store and tells it, and a second handling of it would be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from rockbot.chain import Chain, Order
from rockbot.context import Context
from rockbot.dispatcher import Dispatcher
from rockbot.events import Event, EventRegistry
from rockbot.handler import CallNext
from rockbot.outgoing import Outgoing
from rockbot.state.keys import key
from rockbot.state.ports import StateStore
from rockbot_handlers.deadline.link import DeadlineLink
from rockbot_handlers.deduplication.link import DeduplicationLink
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Measures
from rockbot_messaging.ports import MessagePublisher
from rockbot_messaging.subscriptions import OutageGuard, WorkSubscription

__all__ = ["REMEMBER", "TILL", "Payment", "Receipt", "Till", "balance", "payment"]

REMEMBER = 3600.0
TILL = WorkSubscription(
    name="till", patterns=("payment.*",), remember=REMEMBER, prefetch=40, concurrency=8, guard=OutageGuard()
)


class Payment(Event):
    type_name: ClassVar[str] = "test.payment"
    topics: ClassVar[tuple[str, ...]] = ("payment.*",)
    account: str = "one"


class Receipt(Event):
    type_name: ClassVar[str] = "test.receipt"
    account: str
    number: int


Act = Callable[[Event, Context], Awaitable[None]]


class Till:
    """The work link and the dispatcher around it. `before` is awaited in the handler before it has any effect."""

    def __init__(
        self,
        store: StateStore,
        publisher: MessagePublisher,
        *,
        clock: Clock,
        measures: Measures,
        before: Act | None = None,
        body_limit: int = 1 << 20,
    ) -> None:
        self.store = store
        self.handled: Counter[str] = Counter()
        self.before = before
        link = DeduplicationLink(store, measures=measures, body_limit=body_limit)
        links: list[tuple[int, str, Any]] = [
            (Order.WORK, "till", self),
            (Order.DEDUPLICATION, "deduplication", link),
            (Order.DEADLINE, "deadline", DeadlineLink()),
        ]
        registry = EventRegistry([Payment, Receipt])
        self.dispatcher = Dispatcher(
            registry=registry,
            chain=Chain(links, registry),
            outgoing=Outgoing(publisher, clock=clock, source="test"),
            clock=clock,
            source="test",
        )
        self.handler = self.dispatcher.handler(TILL)

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (Payment,)

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        assert isinstance(event, Payment)
        self.handled[context.envelope.message_id] += 1
        if self.before is not None:
            await self.before(event, context)
        account = context.key("account", event.account)
        entry = await self.store.get(account)
        number = (int(entry.value) if entry else 0) + 1
        context.effects.put(account, str(number).encode(), expect=entry.version if entry else 0)
        context.emit(Receipt(account=event.account, number=number), topic="receipt.sent")


def payment(message_id: str, account: str = "one", **fields: Any) -> MessageEnvelope:
    given: dict[str, Any] = {"topic": "payment.card", "type": Payment.type_name, **fields}
    return MessageEnvelope(message_id=message_id, body=Payment(account=account).to_body(), **given)


async def balance(store: StateStore, account: str = "one", tenant: str = "default") -> int:
    entry = await store.get(key(tenant, "account", account))
    return int(entry.value) if entry else 0
