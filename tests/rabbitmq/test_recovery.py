"""Whatever ends, the bus comes back by itself and loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from nodes.rabbitmq import RabbitNode
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import (
    Ack,
    DeadLetter,
    MessageEnvelope,
    Retry,
    RetryPolicy,
    Verdict,
    WatchSubscription,
    WorkSubscription,
)
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import buried, message

pytestmark = pytest.mark.rabbitmq

_ONCE = RetryPolicy(max_attempts=1)
_WORK = WorkSubscription(name="work", patterns=("job.#",))


async def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def private(rabbit_node: RabbitNode) -> object:
    harness = RabbitHarness(rabbit_node.url)
    yield harness
    await harness.close()


@pytest.mark.crash
async def test_a_broker_killed_and_restarted_loses_nothing(rabbit_node: RabbitNode, private: RabbitHarness) -> None:
    # A busy machine starts a broker in its own time.
    bus = await private.connect(connect_timeout=60, confirm_timeout=90)
    held, seen = asyncio.Event(), []

    async def handler(envelope: MessageEnvelope) -> Verdict:
        seen.append(envelope)
        if not envelope.redelivered:
            await held.wait()
        return Ack()

    await bus.subscriber.subscribe(_WORK, handler)
    before = [message("job.before") for _ in range(20)]
    await bus.publisher.publish_many(before)
    await _until(lambda: len(seen) == 20)
    await asyncio.to_thread(rabbit_node.remember_queues)
    await asyncio.to_thread(rabbit_node.kill)
    await _until(lambda: not bus.health().connected)
    during = [message("job.during") for _ in range(5)]
    publishing = asyncio.create_task(bus.publisher.publish_many(during))
    await asyncio.to_thread(rabbit_node.start)
    await publishing
    after = message("job.after")
    await bus.publisher.publish(after)
    wanted = {one.message_id for one in (*before, *during, after)}
    held.set()
    again: set[str] = set()

    def everything_again() -> bool:
        again.update(one.message_id for one in seen[20:])
        return again == wanted

    await _until(everything_again)
    assert all(one.redelivered for one in seen[20:] if one.topic == "job.before")
    await _until(lambda: bus.health().connected and not bus.health().idle_seconds)


async def test_closed_connections_come_back_with_consumers_watchers_and_publishers(
    rabbit_node: RabbitNode, private: RabbitHarness
) -> None:
    bus = await private.connect()
    worker, watcher = Recorder(), Recorder()
    await bus.subscriber.subscribe(_WORK, worker)
    watching = await bus.subscriber.subscribe(WatchSubscription(name="news", patterns=("news.#",)), watcher)
    address = watching.address
    closing = asyncio.create_task(asyncio.to_thread(rabbit_node.close_connections))
    await _until(lambda: bool(bus.health().idle_seconds))
    await closing
    await _until(lambda: bus.health().connected and not bus.health().idle_seconds, 10)
    await bus.publisher.publish(message("job.one"))
    await bus.publisher.publish(message("news.one"))
    await bus.publisher.send(message("answer"), address=address)
    await worker.wait_for(1)
    await watcher.wait_for(2)
    assert watching.address == address


async def test_a_deleted_queue_is_made_again_and_consumed(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    worker = Recorder()
    consumption = await bus.subscriber.subscribe(_WORK, worker)
    channel = await harness.stranger()
    await channel.queue_delete(consumption.address)
    await _until(lambda: bool(bus.health().idle_seconds), 10)
    await _until(lambda: not bus.health().idle_seconds, 10)
    await bus.publisher.publish(message("job.one"))
    await worker.wait_for(1)


async def test_a_deleted_exchange_is_made_again_by_the_next_publish(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    worker = Recorder()
    await bus.subscriber.subscribe(_WORK, worker)
    channel = await harness.stranger()
    await channel.exchange_delete(f"{harness.namespace}.commands")
    # Its bindings went with it; declaring makes the exchange and the bindings again.
    await bus.publisher.publish(message("job.one"))
    await worker.wait_for(1)


async def test_a_deleted_dead_letter_queue_is_made_again_when_it_is_needed(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    worker = Recorder(lambda _: ValueError("no"))
    work = WorkSubscription(name="work", patterns=("job.#",), retry=_ONCE)
    consumption = await bus.subscriber.subscribe(work, worker)
    channel = await harness.stranger()
    await channel.queue_delete(f"{consumption.address}.dlq")
    sent = message("job.one")
    await bus.publisher.publish(sent)
    (letter,) = await buried(bus, "work", 1)
    assert letter.id == sent.message_id


async def test_a_cut_wire_redelivers_what_was_in_hand_and_nothing_is_settled_twice(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    worker = Recorder(held=True)
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",), prefetch=4), worker)
    sent = [message("job.one") for _ in range(8)]
    await bus.publisher.publish_many(sent)
    await worker.wait_for(4)
    bus.cut()
    worker.release()
    await worker.wait_for(12)
    assert set(worker.ids) == {one.message_id for one in sent}
    await _until(lambda: bus.health().connected and not bus.health().idle_seconds)


async def test_publishing_goes_on_over_a_cut_wire(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    worker = Recorder()
    await bus.subscriber.subscribe(_WORK, worker)
    sent = [message("job.one") for _ in range(300)]
    publishing = [asyncio.create_task(bus.publisher.publish(one)) for one in sent]
    await worker.wait_for(1)
    bus.cut()
    await asyncio.gather(*publishing)
    await _until(lambda: set(worker.ids) == {one.message_id for one in sent})


async def test_cuts_in_the_middle_of_everything_lose_nothing(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    handled: set[str] = set()
    deliveries = 0

    async def handler(envelope: MessageEnvelope) -> Verdict:
        nonlocal deliveries
        deliveries += 1
        if deliveries in (40, 120, 250, 400):
            bus.cut()
        if envelope.body == b"poison":
            return DeadLetter(reason="poison")
        if deliveries % 50 == 0 and envelope.attempt == 1:
            return Retry(after=0, reason="again")
        handled.add(envelope.message_id)
        return Ack()

    work = WorkSubscription(name="work", patterns=("job.#",), prefetch=20, retry=RetryPolicy(max_attempts=9))
    await bus.subscriber.subscribe(work, handler)
    sent = [message("job.one", b"poison" if number % 25 == 0 else b"fine") for number in range(500)]
    await asyncio.gather(*(bus.publisher.publish_many(sent[at : at + 5]) for at in range(0, 500, 5)))
    fine = {one.message_id for one in sent if one.body == b"fine"}
    poison = {one.message_id for one in sent if one.body == b"poison"}
    await _until(lambda: handled == fine)
    await buried(bus, "work", len(poison))
    async with asyncio.timeout(60):
        while {letter.id for letter in await bus.dead_letters.letters("work", limit=1000)} != poison:
            pass
