"""What RabbitMQ does to those who copy what they received: each trap shown with a plain client, then our way around it."""

from __future__ import annotations

import asyncio

import aio_pika
import pytest
from aio_pika.exceptions import AMQPError, ChannelPreconditionFailed
from aiormq import spec
from nodes.rabbitmq import RabbitNode
from rabbitmq.harness import RabbitHarness, publish_raw

from rockbot_messaging import DeadLetter, Door, Retry, RetryPolicy, WorkSubscription
from rockbot_messaging.errors import HeadersTooLarge, Unroutable
from rockbot_messaging.rabbitmq.fields import Properties, encode_properties
from rockbot_messaging.rabbitmq.policies import version_of
from rockbot_messaging.rabbitmq.topology import Names, delay, shared, work
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import buried, depth, message

pytestmark = pytest.mark.rabbitmq

_WORK = WorkSubscription(name="work", patterns=("job.#",), retry=RetryPolicy(max_attempts=3, delays=(1,)))


async def _next(queue: aio_pika.abc.AbstractQueue, *, no_ack: bool = True) -> aio_pika.abc.AbstractIncomingMessage:
    """The next message of a queue, once there is one."""
    async with asyncio.timeout(60):
        while (taken := await queue.get(fail=False, no_ack=no_ack)) is None:
            await asyncio.sleep(0)
        return taken


async def _version(harness: RabbitHarness) -> tuple[int, int]:
    session = (await harness.connect())._inward.session_now
    assert session is not None
    return version_of(session.server_version)


async def test_an_alternate_exchange_makes_a_mandatory_publish_look_received(harness: RabbitHarness) -> None:
    channel = await harness.stranger()
    sink = await channel.declare_exchange(f"{harness.namespace}-sink", "fanout", auto_delete=True)
    await (await channel.declare_queue(exclusive=True)).bind(sink)
    swallowing = await channel.declare_exchange(
        f"{harness.namespace}-ae", "topic", auto_delete=True, arguments={"alternate-exchange": sink.name}
    )
    silent = await channel.declare_exchange(f"{harness.namespace}-plain", "topic", auto_delete=True)
    confirmed = await swallowing.publish(aio_pika.Message(b"x"), "nobody.home", mandatory=True)
    assert isinstance(confirmed, spec.Basic.Ack)
    returned = await silent.publish(aio_pika.Message(b"x"), "nobody.home", mandatory=True)
    assert not isinstance(returned, spec.Basic.Ack)
    await silent.delete()

    bus = await harness.connect()
    sent = message("nobody.home")
    with pytest.raises(Unroutable):
        await bus.publisher.publish(sent)
    await bus.publisher.publish(message("nobody.home"), door=Door.PUBLIC)
    assert (await buried(bus, "unrouted", 2))[0].id == sent.message_id


async def test_an_unlimited_delivery_limit_drops_a_letter_at_its_first_return_before_version_4(
    harness: RabbitHarness,
) -> None:
    bus = await harness.connect()
    if await _version(harness) >= (4, 0):
        pytest.skip("-1 means no limit from 4.0 on")
    channel = await harness.stranger()
    queue = await channel.declare_queue(
        f"{harness.namespace}-unlimited", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": -1}
    )
    await channel.default_exchange.publish(aio_pika.Message(b"letter"), queue.name)
    taken = await queue.get()
    assert taken is not None
    await taken.nack(requeue=True)
    assert await queue.get(fail=False) is None
    await channel.queue_delete(queue.name)

    await bus.subscriber.subscribe(_WORK, Recorder(lambda _: DeadLetter(reason="no")))
    sent = message("job.one")
    await bus.publisher.publish(sent)
    await buried(bus, "work", 1)
    letters = await channel.get_queue(f"{harness.namespace}.work.dlq", ensure=False)
    for _ in range(25):
        taken = await letters.get(fail=False)
        assert taken is not None
        await taken.nack(requeue=True)
    assert [letter.id for letter in await bus.dead_letters.letters("work")] == [sent.message_id]


async def test_a_copied_death_history_makes_the_broker_drop_the_message_as_a_cycle_before_version_4(
    harness: RabbitHarness,
) -> None:
    release, _ = await _version(harness)
    channel = await harness.stranger()
    grave = await channel.declare_queue(exclusive=True)
    work_queue = await channel.declare_queue(
        exclusive=True,
        arguments={"x-message-ttl": 50, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": grave.name},
    )
    waiting = await channel.declare_queue(
        exclusive=True,
        arguments={"x-message-ttl": 50, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": work_queue.name},
    )
    await channel.default_exchange.publish(aio_pika.Message(b"first"), work_queue.name)
    dead = await _next(grave)
    assert "x-death" in dead.headers
    copied = aio_pika.Message(b"copied", headers=dict(dead.headers))
    await channel.default_exchange.publish(copied, waiting.name)
    await channel.default_exchange.publish(aio_pika.Message(b"clean"), waiting.name)
    # Both waited and came to the work queue that the first one died in; before 4.0 one of them was never seen again.
    arrived = {(await _next(grave)).body for _ in range(1 if release < 4 else 2)}
    assert arrived == ({b"clean"} if release < 4 else {b"clean", b"copied"})
    assert await grave.get(fail=False) is None


async def test_what_is_delivered_again_and_again_and_counted_by_nobody_is_buried(harness: RabbitHarness) -> None:
    # From 4.3 on the broker's own limit counts neither what is handed back nor what is held too long.
    counts = await _version(harness) >= (4, 3)
    bus = await harness.connect()
    await bus.declare([_WORK])
    headers = {} if counts else {"x-acquired-count": 101}
    channel = await harness.stranger()
    door = await channel.get_exchange(harness.namespace, ensure=False)
    await door.publish(aio_pika.Message(b"payload", message_id="often", headers=headers), "job.often")
    queue = await channel.get_queue(f"{harness.namespace}.work", ensure=False)
    for _ in range(101 if counts else 1):
        await (await _next(queue, no_ack=False)).nack(requeue=True)
    worker = Recorder()
    await bus.subscriber.subscribe(_WORK, worker)
    (letter,) = await buried(bus, "work", 1)
    assert letter.failure.reason.startswith("101 deliveries ended without being settled")
    assert worker.ids == []


async def test_what_the_broker_buried_is_replayed_delayed_and_handled(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    await bus.declare([_WORK])
    sent = message("job.poison", b"payload", headers={"colour": "red"})
    await bus.publisher.publish(sent)
    channel = await harness.stranger()
    queue = await channel.get_queue(f"{harness.namespace}.work", ensure=False)
    while (taken := await queue.get(fail=False)) is not None:
        await taken.reject(requeue=True)
    (letter,) = await buried(bus, "work", 1)
    assert "delivery_limit" in letter.failure.broker
    worker = Recorder([Retry(after=1, reason="not yet"), Retry(after=0, reason="nor now")])
    await bus.subscriber.subscribe(_WORK, worker)
    await bus.dead_letters.replay("work", letter.id)
    await worker.wait_finished(3)
    assert [(one.attempt, one.redelivered, one.returns) for one in worker.envelopes] == [
        (1, False, 0), (2, False, 0), (3, False, 0),
    ]  # fmt: skip
    assert {(one.message_id, one.body) for one in worker.envelopes} == {(sent.message_id, b"payload")}
    assert await depth(bus, "work") == 0


async def test_a_copied_user_closes_the_channel(rabbit_node: RabbitNode) -> None:
    harness = RabbitHarness(rabbit_node.url)
    name = f"u{harness.namespace}"
    await asyncio.to_thread(rabbit_node.add_user, name, "pw", configure=".*", write=".*", read=".*")
    bus = await harness.connect()
    worker = Recorder([Retry(after=0), Retry(after=1), DeadLetter(reason="enough")])
    await bus.subscriber.subscribe(_WORK, worker)
    channel = await harness.stranger()
    with pytest.raises(ChannelPreconditionFailed, match="user_id"):
        await channel.default_exchange.publish(aio_pika.Message(b"x", user_id=name), "anywhere")

    stranger = rabbit_node.url.replace("guest:guest", f"{name}:pw")
    await publish_raw(stranger, harness.namespace, "job.one", b"x", encode_properties(Properties(user_id=name)))
    (letter,) = await buried(bus, "work", 1)
    assert [one.user_id for one in worker.envelopes] == [name] * 3
    assert letter.envelope.user_id == name
    await harness.close()


async def test_headers_beyond_a_frame_close_the_connection(harness: RabbitHarness) -> None:
    connection = await aio_pika.connect(harness.url)
    channel = await connection.channel()
    closed = asyncio.Event()
    connection.close_callbacks.add(lambda *_: closed.set())
    with pytest.raises((AMQPError, ConnectionError, asyncio.CancelledError)):
        await channel.default_exchange.publish(aio_pika.Message(b"x", headers={"large": "x" * 140_000}), "anywhere")
    async with asyncio.timeout(60):
        await closed.wait()

    bus = await harness.connect()
    await bus.declare([_WORK])
    before = bus._outward.session_now
    with pytest.raises(HeadersTooLarge, match="the limit is 65536"):
        await bus.publisher.publish(message("job.one", headers={"large": "x" * 140_000}))
    await bus.publisher.publish(message("job.one"))
    assert before is not None
    assert bus._outward.session_now is before


async def test_priorities_are_refused_on_quorum_queues_and_asked_for_nowhere(harness: RabbitHarness) -> None:
    channel = await harness.stranger()
    if await _version(harness) < (4, 0):
        with pytest.raises(ChannelPreconditionFailed, match="x-max-priority"):
            await channel.declare_queue(
                f"{harness.namespace}-lanes", durable=True, arguments={"x-queue-type": "quorum", "x-max-priority": 3}
            )
    names = Names("ns")
    everything = shared(names) + work(names, _WORK) + delay(names, "ns.work", 1)
    assert not [queue.name for queue in everything.queues if "x-max-priority" in queue.arguments]
