"""What the tests of dead letters play on: a bus with letters, services over it, and a way to watch what is sent on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from rockbot.events import HOST_EVENTS, EventRegistry
from rockbot.letters.models import LetterFilter, LetterRow, Progress
from rockbot.letters.recording import LetterRecorder
from rockbot.letters.service import LetterService
from rockbot.settings_delivery import LetterSettings
from rockbot.state.ports import StateStore
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.letters import Failure, Letter
from rockbot_messaging.measures import Counters
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.settlement import Bury
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock, Recorder, SequenceIds

ORDERS = WorkSubscription(name="orders", patterns=("order.#",))
BILLS = WorkSubscription(name="bills", patterns=("bill.#",))


class Scene:
    """One broker with two subscriptions nobody consumes until a test says so, and a service."""

    def __init__(self, store: StateStore, clock: FakeClock, broker: MemoryBroker) -> None:
        self.store = store
        self.clock = clock
        self.broker = broker
        self.bus = MemoryBus(broker=broker)
        self.measures = Counters()
        self.ids = SequenceIds(7)
        self.naps: list[float] = []
        self._services = 0
        self.desk = self.service()
        self.recorder = LetterRecorder(store, measures=self.measures)

    async def open(self) -> None:
        await self.bus.open()
        await self.bus.declare([ORDERS, BILLS])

    async def close(self) -> None:
        await self.recorder.close()
        await self.bus.close()

    def service(self, *, bus: MemoryBus | None = None, **settings: Any) -> LetterService:
        """Another service over the same store, as another process has it."""
        self._services += 1
        over = bus or self.bus
        return LetterService(
            letters=over.dead_letters,
            publisher=over.publisher,
            store=self.store,
            clock=self.clock,
            ids=self.ids,
            owner=f"process-{self._services}",
            namespace="rockbot",
            source="tests",
            registry=EventRegistry(HOST_EVENTS),
            measures=self.measures,
            settings=LetterSettings(**settings),
            sleep=self._nap,
        )

    async def _nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    async def bury(
        self,
        id: str,
        *,
        queue: str = "orders",
        reason: str = "no items",
        error: str = "ValueError",
        handler: str = "shop",
        body: bytes = b'{"items": []}',
        topic: str = "order.created",
        told: bool = False,
        **fields: Any,
    ) -> Letter:
        """One more letter; `told` tells the recorder of it, as a host's bus does."""
        envelope = MessageEnvelope(
            topic=topic, body=body, message_id=id, type=fields.pop("type", "shop.order"), source="shop", **fields
        )
        failure = Failure(
            reason=reason,
            queue="" if queue == "unrouted" else queue,
            topic=topic,
            at_ms=self.clock.now_ms(),
            attempt=5,
            error_type=error,
            handler=handler,
        )
        await self.bus.dead_letters.bury(queue, envelope, failure)
        if told:
            self.recorder.carried_out(queue, Bury(envelope, failure))
        return Letter(id=id, queue=queue, envelope=envelope, failure=failure)

    async def bury_many(self, count: int, prefix: str = "letter", seconds: float = 1, **fields: Any) -> list[str]:
        """Letters `<prefix>-0000`, ..., dying one after another."""
        ids = [f"{prefix}-{number:04}" for number in range(count)]
        for each in ids:
            await self.bury(each, **fields)
            self.clock.advance(seconds)
        return ids

    async def consume(self, subscription: WorkSubscription = ORDERS) -> Recorder:
        """Begin to handle what is sent on."""
        recorder = Recorder()
        await self.bus.subscriber.subscribe(subscription, recorder)
        return recorder

    async def rows(self, desk: LetterService | None = None, **which: Any) -> Sequence[LetterRow]:
        """Every letter of the index that fits."""
        page = await (desk or self.desk).find(LetterFilter(**which), limit=1000)
        assert page.total == len(page.letters)
        return page.letters

    async def rows_of(self, queue: str) -> int:
        """How many letters the desk says there are."""
        return (await self.desk.find(LetterFilter(queue=queue), limit=1)).total

    async def ids_in(self, queue: str = "orders") -> list[str]:
        """What really lies in a queue, in its order."""
        return [letter.id for letter in await self.bus.dead_letters.letters(queue, limit=100_000)]

    async def indexed(self, queue: str) -> list[tuple[str, bytes]]:
        """The rows of the index as they are stored."""
        from rockbot.letters.index import LetterIndex

        return [(entry.key, entry.value) async for entries in LetterIndex(self.store).pages(queue) for entry in entries]


async def done(action: AsyncIterator[Progress]) -> Progress:
    """The last word of an action."""
    async with aclosing(action) as steps:  # type: ignore[type-var]
        last = [step async for step in steps][-1]
    assert last.done
    return last


async def first_step(action: AsyncIterator[Progress]) -> Progress:
    """Leave an action after its first batch."""
    async with aclosing(action) as steps:  # type: ignore[type-var]
        async for step in steps:
            return step
    raise AssertionError("it told nothing")
