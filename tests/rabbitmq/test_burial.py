"""Ways into a dead-letter queue that only a real broker has, and the way back."""

from __future__ import annotations

import asyncio

import pytest
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import Ack, DeadLetter, MessageEnvelope, Retry, RetryPolicy, Verdict, WorkSubscription
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import buried, depth, message

pytestmark = pytest.mark.rabbitmq


async def test_what_kills_its_consumer_again_and_again_is_buried_by_the_broker(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    await bus.declare([WorkSubscription(name="work", patterns=("job.#",))])
    sent = message("job.poison", b"payload", headers={"colour": "red"})
    await bus.publisher.publish(sent)
    channel = await harness.stranger()
    queue = await channel.get_queue(f"{harness.namespace}.work", ensure=False)
    deliveries = 0
    while (taken := await queue.get(fail=False)) is not None:
        deliveries += 1
        await taken.reject(requeue=True)
    assert deliveries == 21
    (letter,) = await buried(bus, "work", 1)
    assert (letter.id, letter.envelope.body) == (sent.message_id, b"payload")
    assert dict(letter.envelope.headers) == {"colour": "red"}
    assert (letter.failure.queue, letter.failure.topic) == (f"{harness.namespace}.work", "job.poison")
    assert "too many deliveries" in letter.failure.reason
    assert f"delivery_limit in {harness.namespace}.work, 1 times" in letter.failure.broker
    assert abs(letter.failure.at_ms - harness.clock.now_ms()) < 60_000
    worker = Recorder()
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",)), worker)
    await bus.dead_letters.replay("work", letter.id)
    (again,) = await worker.wait_for(1)
    assert (again.message_id, again.topic, again.redelivered) == (sent.message_id, "job.poison", False)


async def test_dead_replayed_delayed_and_dead_again_is_never_dropped_as_a_cycle(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    done = asyncio.Event()
    seen: list[MessageEnvelope] = []

    async def handler(envelope: MessageEnvelope) -> Verdict:
        seen.append(envelope)
        if len(seen) in (1, 3):
            return Retry(after=0.1, reason="later")
        if len(seen) in (2, 4):
            return DeadLetter(reason="not like this")
        done.set()
        return Ack()

    retry = RetryPolicy(max_attempts=3, delays=(1,))
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",), retry=retry), handler)
    sent = message("job.one", b"payload", headers={"colour": "red"})
    await bus.publisher.publish(sent)
    for _ in range(2):
        (letter,) = await buried(bus, "work", 1)
        assert letter.failure.broker == ""
        await bus.dead_letters.replay("work", letter.id)
    async with asyncio.timeout(60):
        await done.wait()
    assert [one.attempt for one in seen] == [1, 2, 1, 2, 1]
    assert {(one.message_id, one.topic, one.body) for one in seen} == {(sent.message_id, "job.one", b"payload")}
    assert await depth(bus, "work") == 0


async def test_fifty_looks_and_partial_ones_keep_order_and_drop_nothing(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    worker = Recorder(lambda _: DeadLetter(reason="no"))
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",), concurrency=1), worker)
    sent = [message("job.one") for _ in range(12)]
    await bus.publisher.publish_many(sent)
    everything = [letter.id for letter in await buried(bus, "work", 12)]
    assert everything == [one.message_id for one in sent]
    for look in range(50):
        start, size = look % 12, 1 + look % 5
        page = await bus.dead_letters.letters("work", limit=size, offset=start)
        assert [letter.id for letter in page] == everything[start : start + size]
        if look == 25:
            more = message("job.one")
            await bus.publisher.publish(more)
            everything.append(more.message_id)
            await buried(bus, "work", 13)
    assert [letter.id for letter in await bus.dead_letters.letters("work")] == everything


async def test_failure_headers_beside_large_free_headers_stay_within_a_frame(harness: RabbitHarness) -> None:
    bus = await harness.connect(max_header_bytes=100 * 1024)
    worker = Recorder(lambda _: DeadLetter(reason="r" * 5_000, traceback="t" * 200_000))
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",)), worker)
    await harness.publish_foreign("job.large", b"payload", headers={f"h{n}": "v" * 10_000 for n in range(10)})
    await harness.publish_foreign("job.small", b"payload", headers={"h": "v" * 1_000})
    letters = {letter.envelope.topic: letter for letter in await buried(bus, "work", 2)}
    assert letters["job.small"].envelope.headers == {"h": "v" * 1_000}
    assert letters["job.small"].failure.traceback.startswith("t")
    assert "shortened" in letters["job.small"].failure.traceback
    assert letters["job.large"].envelope.body == b"payload"
    assert letters["job.large"].failure.reason.startswith("r")
    assert bus.health().idle_seconds == {}


async def test_a_message_that_comes_back_is_handled_alone(harness: RabbitHarness) -> None:
    dying, bus = await harness.connect(), await harness.connect()
    held = Recorder(held=True)
    work = WorkSubscription(name="work", patterns=("job.#",), prefetch=4)
    await dying.subscriber.subscribe(work, held)
    await bus.publisher.publish_many([message("job.one") for _ in range(4)])
    await held.wait_for(4)
    await harness.kill(dying)
    worker = Recorder()
    await bus.subscriber.subscribe(work, worker)
    await worker.wait_finished(4)
    assert worker.peak == 1
    assert all(one.redelivered for one in worker.envelopes)
