"""The in-memory provider beyond the suite: limits, contexts, clocks."""

from __future__ import annotations

import asyncio
import contextvars
import logging

import pytest

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Closed
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.subscriptions import WatchSubscription, WorkSubscription
from rockbot_messaging.testing import FakeClock, Recorder, SequenceIds
from rockbot_messaging.testing.harness import buried, message
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

_WORK = WorkSubscription(name="work", patterns=("job",))


async def _opened(**options: object) -> MemoryBus:
    bus = MemoryBus(**options)  # type: ignore[arg-type]
    await bus.open()
    return bus


def test_the_provider_implements_the_port() -> None:
    bus: MessageBus = MemoryBus()
    assert not bus.health().connected


async def test_a_message_that_outlives_no_handler_is_buried_in_the_end() -> None:
    broker = MemoryBroker(clock=FakeClock(), ids=SequenceIds())
    survivor = await _opened(broker=broker)
    await survivor.declare([_WORK])
    await survivor.publisher.publish(message("job"))
    for _ in range(21):
        dying = await _opened(broker=broker)
        taker = Recorder(held=True)
        await dying.subscriber.subscribe(_WORK, taker)
        await taker.wait_for(1)
        await dying.kill()
    untouched = Recorder()
    await survivor.subscriber.subscribe(_WORK, untouched)
    (letter,) = await buried(survivor, "work", 1)
    assert letter.failure.broker == "delivery_limit"
    assert "21 deliveries" in letter.failure.reason
    assert untouched.seen == []
    await survivor.close()


async def test_a_cancelled_handler_hands_its_delivery_back() -> None:
    bus = await _opened()
    came: list[MessageEnvelope] = []
    twice = asyncio.Event()

    async def is_cancelled_once(envelope: MessageEnvelope) -> Verdict:
        came.append(envelope)
        if len(came) == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        twice.set()
        return Ack()

    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), concurrency=1), is_cancelled_once)
    await bus.publisher.publish(message("job"))
    async with asyncio.timeout(60):
        await twice.wait()
    assert [(one.redelivered, one.returns, one.attempt) for one in came] == [(False, 0, 1), (True, 1, 1)]
    await bus.close()


async def test_a_handler_that_returns_no_verdict_has_failed() -> None:
    clock = FakeClock()
    bus = await _opened(clock=clock)

    async def forgets(envelope: MessageEnvelope) -> Verdict:
        return None  # type: ignore[return-value]

    await bus.subscriber.subscribe(_WORK, forgets)
    await bus.publisher.publish(message("job", attempt=5))
    (letter,) = await buried(bus, "work", 1)
    assert letter.failure.error_type == "TypeError"
    await bus.close()


async def test_a_handler_sees_the_context_of_its_subscriber_and_not_of_a_publisher() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    bus = await _opened()
    seen: list[str] = []
    taker = Recorder()

    async def looks(envelope: MessageEnvelope) -> Verdict:
        seen.append(who.get())
        who.set(f"handler of {envelope.message_id}")
        return await taker(envelope)

    who.set("subscriber")
    await bus.subscriber.subscribe(_WORK, looks)
    who.set("publisher")
    for number in (1, 2):
        await bus.publisher.publish(message("job"))
        await taker.wait_for(number)
    assert seen == ["subscriber", "subscriber"]
    await bus.close()


async def test_a_delivery_whose_handler_never_began_is_handed_back() -> None:
    broker = MemoryBroker()
    bus, later, began, heir = await _opened(broker=broker), await _opened(broker=broker), Recorder(), Recorder()
    consumption = await bus.subscriber.subscribe(_WORK, began)
    sent = message("job")
    await bus.publisher.publish(sent)
    assert await consumption.stop(timeout=0) == 1
    assert began.seen == []
    await later.subscriber.subscribe(_WORK, heir)
    await heir.wait_for(1)
    assert heir.ids == [sent.message_id]
    await bus.close()
    await later.close()


async def test_what_comes_back_from_a_delay_is_a_new_copy_at_the_end_of_its_queue() -> None:
    clock = FakeClock()
    broker = MemoryBroker(clock=clock)
    buses = [await _opened(broker=broker) for _ in range(3)]
    first, second, third = Recorder(held=True), Recorder([Retry(after=1)]), Recorder(held=True)
    one, other = message("job"), message("job")
    await buses[0].subscriber.subscribe(_WORK, first)
    await buses[0].publisher.publish(one)
    await first.wait_for(1)
    await buses[0].kill()
    consumption = await buses[1].subscriber.subscribe(_WORK, second)
    await second.wait_finished(1)
    assert second.envelopes[0].redelivered
    await consumption.stop(timeout=10)
    await buses[1].publisher.publish(other)
    clock.advance(1)
    await buses[1].subscriber.subscribe(_WORK, third)
    await third.wait_for(2)
    assert third.ids == [other.message_id, one.message_id]
    assert [came.redelivered for came in third.envelopes] == [False, False]
    await buses[1].kill()
    last = Recorder()
    await buses[2].subscriber.subscribe(_WORK, last)
    await last.wait_for(2)
    assert last.ids == [other.message_id, one.message_id]
    await buses[2].close()


class _HurryingClock:
    """Not a clock that calls back: the event loop's timer must do, and each look at it finds time gone by."""

    def __init__(self) -> None:
        self._now_ms = 1_000_000

    def now_ms(self) -> int:
        self._now_ms += 700
        return self._now_ms

    def monotonic(self) -> float:
        return self._now_ms / 1000


async def test_delays_end_on_a_clock_that_nobody_moves() -> None:
    clock = _HurryingClock()
    bus = await _opened(clock=clock)
    taker = Recorder([Retry(after=3)], clock=clock)
    await bus.subscriber.subscribe(_WORK, taker)
    await bus.publisher.publish(message("job"))
    await taker.wait_for(2)
    assert taker.seen[1].at_ms - taker.seen[0].at_ms >= 3000
    await bus.close()


async def test_a_delay_ends_no_later_than_its_step_and_no_earlier() -> None:
    clock = FakeClock()
    bus = await _opened(clock=clock)
    taker = Recorder([Retry(after=5), Retry(after=5.001)], clock=clock)
    await bus.subscriber.subscribe(_WORK, taker)
    await bus.publisher.publish(message("job"))
    await taker.wait_finished(1)
    await _settled()
    clock.advance(4.999)
    await _settled()
    assert len(taker.seen) == 1
    clock.advance(0.001)
    await taker.wait_finished(2)
    await _settled()
    for _ in range(6):
        clock.advance(1)
        await _settled()
    await taker.wait_for(3)
    assert [seen.at_ms - taker.seen[0].at_ms for seen in taker.seen] == [0, 5000, 11_000]
    await bus.close()


async def _settled() -> None:
    """Let tasks that are ready run to where they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_consumers_with_room_are_served_in_turn() -> None:
    broker = MemoryBroker()
    buses = [await _opened(broker=broker) for _ in range(3)]
    takers = [Recorder(held=True) for _ in buses]
    for bus, taker in zip(buses, takers, strict=True):
        await bus.subscriber.subscribe(_WORK, taker)
    await buses[0].publisher.publish_many([message("job") for _ in range(9)])
    for taker in takers:
        await taker.wait_for(3)
    assert [len(taker.seen) for taker in takers] == [3, 3, 3]
    for bus in buses:
        await bus.close()


async def test_what_a_process_prefetched_is_kept_from_others_until_it_goes() -> None:
    broker = MemoryBroker()
    hoarder, other = await _opened(broker=broker), await _opened(broker=broker)
    busy, idle = Recorder(held=True), Recorder()
    hoard = WorkSubscription(name="work", patterns=("job",), prefetch=3, concurrency=1)
    await hoarder.subscriber.subscribe(hoard, busy)
    sent = [message("job") for _ in range(4)]
    await other.publisher.publish_many(sent)
    await busy.wait_for(1)
    await other.subscriber.subscribe(_WORK, idle)
    await idle.wait_for(1)
    assert idle.ids == [sent[3].message_id]
    await hoarder.kill()
    await idle.wait_for(4)
    assert idle.ids[1:] == [one.message_id for one in sent[:3]]
    await other.close()


async def test_a_broker_without_storage_outlives_its_connections() -> None:
    broker = MemoryBroker()
    first = await _opened(broker=broker)
    await first.declare([_WORK])
    await first.publisher.publish(message("job"))
    await first.close()
    second, taker = await _opened(broker=broker), Recorder()
    await second.subscriber.subscribe(_WORK, taker)
    await taker.wait_for(1)
    await second.close()


async def test_a_bus_says_why_it_takes_nothing() -> None:
    bus = MemoryBus()
    with pytest.raises(Closed, match="not opened"):
        await bus.publisher.publish(message("job"))
    await bus.open()
    await bus.open()
    await bus.close()
    with pytest.raises(Closed, match="closed"):
        await bus.dead_letters.queues()
    with pytest.raises(Closed, match="another one"):
        await bus.open()


async def test_a_watcher_that_fails_says_so_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    bus = await _opened()
    watcher = Recorder([DeadLetter(reason="cannot show this")])
    await bus.subscriber.subscribe(WatchSubscription(name="news", patterns=("news",)), watcher)
    sent = message("news")
    with caplog.at_level(logging.WARNING, "rockbot_messaging"):
        await bus.publisher.publish(sent)
        await watcher.wait_finished(1)
        await bus.close()
    assert "cannot show this" in caplog.text
    assert sent.message_id in caplog.text


async def test_a_discarded_letter_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    bus = await _opened()
    await bus.subscriber.subscribe(_WORK, Recorder([DeadLetter(reason="no")]))
    sent = message("job")
    await bus.publisher.publish(sent)
    await buried(bus, "work", 1)
    with caplog.at_level(logging.WARNING, "rockbot_messaging"):
        await bus.dead_letters.discard("work", sent.message_id, reason="sent twice")
    assert sent.message_id in caplog.text
    assert "sent twice" in caplog.text
    await bus.close()
