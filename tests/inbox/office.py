"""Processes that work ordered subscriptions, and the record of what they did."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from rockbot.inbox import OrderedInboxes
from rockbot.state.ports import StateStore, StateUnavailable
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Counters
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.ports import Consumption, MessageBus
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import Ordered, WorkSubscription
from rockbot_messaging.verdicts import Ack, Verdict

__all__ = ["ORDERS", "Fails", "Office", "Story", "order", "ordered", "until"]

Answer = Callable[[MessageEnvelope], Verdict | Awaitable[Verdict]]


def ordered(on_dead: str = "block", **changes: Any) -> WorkSubscription:
    given: dict[str, Any] = {
        "name": "orders",
        "patterns": ("order.*",),
        "ordered": Ordered(by="correlation", on_dead=on_dead),  # type: ignore[arg-type]
        "retry": RetryPolicy(max_attempts=3, delays=(5,)),
        "prefetch": 100,
        "concurrency": 8,
        **changes,
    }
    return WorkSubscription(**given)


ORDERS = ordered()


def order(name: str, key: str | None = None, **fields: Any) -> MessageEnvelope:
    """The message `name` of a key, which is its first letter unless given."""
    key = name[0] if key is None else key
    given: dict[str, Any] = {"topic": "order.made", "type": "test.order", "correlation_id": key or None, **fields}
    return MessageEnvelope(message_id=name, body=b"{}", **given)


async def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise TimeoutError("what was waited for did not happen") from None


class Story:
    """What all processes together did: `begun` and `handled` by key, in order. `answer` decides; without one: Ack."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.begun: dict[str, list[str]] = defaultdict(list)
        self.handled: dict[str, list[str]] = defaultdict(list)
        self.envelopes: list[MessageEnvelope] = []
        self.running: dict[str, int] = defaultdict(int)
        self.peak = 0
        self.overlaps: list[str] = []

    @property
    def done(self) -> list[str]:
        return [name for names in self.handled.values() for name in names]

    async def __call__(self, envelope: MessageEnvelope) -> Verdict:
        key = envelope.correlation_id or ""
        self.begun[key].append(envelope.message_id)
        self.envelopes.append(envelope)
        self.running[key] += 1
        if self.running[key] > 1:
            self.overlaps.append(envelope.message_id)
        self.peak = max(self.peak, sum(self.running.values()))
        try:
            await asyncio.sleep(0)
            verdict = Ack() if self.answer is None else self.answer(envelope)
            if isinstance(verdict, Awaitable):
                verdict = await verdict
        finally:
            self.running[key] -= 1
        if isinstance(verdict, Ack):
            self.handled[key].append(envelope.message_id)
        return verdict


class Office:
    """One process: its inboxes, its connection, and the way in."""

    def __init__(
        self,
        name: str,
        store: StateStore,
        bus: MessageBus,
        story: Story,
        clock: Any,
        *,
        subscription: WorkSubscription = ORDERS,
        **terms: Any,
    ) -> None:
        self.bus = bus
        self.counters = Counters()
        given = {"lease": 15.0, "scan_every": 3600.0, **terms}
        self.inboxes = OrderedInboxes(store, bus, clock=clock, owner=name, measures=self.counters, **given)
        self.receive = self.inboxes.receive(subscription, story)
        self.subscription = subscription
        self.reader: Consumption | None = None

    async def get(self, *names: str, **fields: Any) -> list[Verdict]:
        return [await self.receive(order(name, **fields)) for name in names]

    async def consume(self) -> None:
        self.reader = await self.inboxes.subscribe(self.subscription, self.receive)
        await self.inboxes.start()

    async def close(self) -> None:
        if self.reader is not None:
            await self.reader.stop(timeout=5)
        await self.inboxes.close(timeout=5)
        await self.bus.close()

    async def kill(self) -> None:
        await self.inboxes.kill()
        kill: Any = self.bus
        if asyncio.iscoroutine(killing := kill.kill()):
            await killing


async def connection(broker: MemoryBroker) -> MemoryBus:
    bus = MemoryBus(broker=broker)
    await bus.open()
    return bus


class Fails:
    """Stands before a store; while `away`, it cannot be reached."""

    def __init__(self, inner: StateStore) -> None:
        self._inner = inner
        self.away = False
        self.refused = 0
        self.before_write: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)

        async def call(*args: Any, **named: Any) -> Any:
            if self.away:
                self.refused += 1
                raise StateUnavailable("the store is away")
            if name == "write":
                self.before_write()
            return await member(*args, **named)

        return call
