"""What a host does about dead letters by itself: rows, counters, gauges, and erasing what is too old."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

import pytest

from rockbot.chain import Order
from rockbot.container import compose
from rockbot.context import Context
from rockbot.errors import PermanentFailure
from rockbot.events import Event
from rockbot.handler import CallNext
from rockbot.letters.recording import LetterRecorder
from rockbot.plugins import Contribution, Link, Services
from rockbot.settings import Settings
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.clock import RandomIds
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock

DAY = 86_400


class Ordered(Event):
    type_name: ClassVar[str] = "test.order"
    topics: ClassVar[tuple[str, ...]] = ("order.*",)


class NoItems(PermanentFailure):
    pass


class Refusing:
    handles = (Ordered,)

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        raise NoItems("none") if "empty" in context.envelope.message_id else PermanentFailure("no")


def _shop(_: Services) -> Contribution:
    return Contribution(
        links=(Link(Order.WORK, "shop", Refusing()),),
        subscriptions=(WorkSubscription(name="orders", patterns=("order.*",)),),
        events=(Ordered,),
    )


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_host_counts_by_class_shows_depth_and_age_and_erases_what_is_too_old() -> None:
    settings = Settings.model_validate(
        {
            "letters": {"scan_seconds": 0.02, "keep_days": 7},
            "host": {"drain_seconds": 5},
        }
    )
    clock, measures = FakeClock(), Counters()
    broker = MemoryBroker(clock=clock)
    store = MemoryStateStore(clock)
    recorder = LetterRecorder(store, measures=measures)
    container = compose(
        settings,
        bus=MemoryBus(broker=broker, clock=clock, ids=RandomIds(), observer=recorder),
        store=store,
        clock=clock,
        measures=measures,
        recorder=recorder,
        plugins=[("shop", _shop)],
    )
    host = container.host()
    await host.start()
    publisher = MemoryBus(broker=broker, clock=clock)
    await publisher.open()

    async def die(name: str) -> None:
        message = MessageEnvelope(topic="order.new", body=b"{}", message_id=name, type=Ordered.type_name)
        await publisher.publisher.publish(message)

    def gauge(name: str) -> float:
        return measures.value(name, queue="orders")

    for name in ("plain", "empty-1", "empty-2"):
        await die(name)
    await _until(lambda: gauge(Names.DEAD_LETTER_DEPTH) == 3)
    assert measures.value(Names.DEAD_LETTERS, subscription="orders", error="NoItems") == 2
    assert measures.value(Names.DEAD_LETTERS, subscription="orders", error="PermanentFailure") == 1
    clock.advance(6 * DAY)
    await _until(lambda: gauge(Names.DEAD_LETTER_AGE) == 6 * DAY)
    await die("young")
    await _until(lambda: gauge(Names.DEAD_LETTER_DEPTH) == 4)
    clock.advance(1.5 * DAY)
    await _until(lambda: gauge(Names.DEAD_LETTER_DEPTH) == 1)
    assert [letter.id for letter in await publisher.dead_letters.letters("orders")] == ["young"]
    (entry,) = await container.letters().audit()
    assert (entry.action, entry.actor, entry.count, entry.reason) == ("expire", "retention", 3, "older than 7 days")
    await _until(lambda: gauge(Names.DEAD_LETTER_AGE) == 1.5 * DAY)
    await host.drain()
    await publisher.close()
    await host.close()


@pytest.mark.parametrize("kept", [{"keep_days": 7}, {"keep_days_by_queue": {"orders": 1}}])
def test_days_that_nobody_would_count_are_refused(kept: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="keep_days needs scan_seconds above 0"):
        Settings.model_validate({"letters": {"scan_seconds": 0, **kept}})
    assert Settings.model_validate({"letters": {"scan_seconds": 0, "keep_days_by_queue": {"orders": 0}}})
