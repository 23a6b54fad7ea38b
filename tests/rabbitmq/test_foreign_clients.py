"""Publishers that know nothing of this package, also careless and malicious ones."""

from __future__ import annotations

import asyncio
import json
import struct
import threading

import pika
import pytest
from nodes.rabbitmq import RabbitNode
from rabbitmq.harness import RabbitHarness, publish_raw

from rockbot_messaging import DeadLetter, Door, Retry, RetryPolicy, WorkSubscription
from rockbot_messaging.rabbitmq.fields import Properties, encode_properties
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import buried, message

pytestmark = pytest.mark.rabbitmq

_WORK = WorkSubscription(name="work", patterns=("job.#",))


async def test_a_pika_client_with_a_body_and_a_key_is_understood_and_answered(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    worker = Recorder()
    await bus.subscriber.subscribe(_WORK, worker)
    answered: list[bytes] = []
    ready = threading.Event()

    def client() -> None:
        connection = pika.BlockingConnection(pika.URLParameters(harness.url))
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        properties = pika.BasicProperties(reply_to=queue)
        channel.basic_publish(harness.namespace, "job.one", b'{"input": "hello"}', properties)
        for _, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=10):
            answered.append(body or b"")
            break
        ready.set()
        connection.close()

    running = asyncio.create_task(asyncio.to_thread(client))
    (request,) = await worker.wait_for(1)
    assert (request.topic, request.body, request.tenant, request.attempt) == (
        "job.one", b'{"input": "hello"}', "default", 1,
    )  # fmt: skip
    assert request.reply_to is not None
    await bus.publisher.send(message("answer", b"done"), address=request.reply_to)
    await running
    assert answered == [b"done"]


async def test_the_simplest_client_there_is(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    worker = Recorder()
    await bus.subscriber.subscribe(_WORK, worker)

    def client() -> None:
        connection = pika.BlockingConnection(pika.URLParameters(harness.url))
        connection.channel().basic_publish(harness.namespace, "job.one", b"hello")
        connection.close()

    await asyncio.to_thread(client)
    (request,) = await worker.wait_for(1)
    assert (request.topic, request.body, request.type, request.user_id) == ("job.one", b"hello", "", None)
    assert len(request.message_id) == 36


_POISON = {
    "a timestamp in microseconds": Properties(timestamp=1_795_232_496_599_000),
    "a timestamp beyond all time": Properties(timestamp=2**64 - 1),
    "priority and expiration": Properties(priority=255, expiration="60000"),
    "our headers with wrong types": Properties(
        headers={f"rockbot-{name}": value for name, value in (
            ("schema", "one"), ("tenant", 7), ("deadline", "soon"), ("attempt", -3), ("handbacks", None), ("due", b"x"),
            ("topic", 1.5), ("history", False), ("return-topic", 3), ("return-token", 3), ("user", "root"),
        )}
    ),
    "the broker's own headers": Properties(headers={"x-death": "never", "x-delivery-count": "many"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*_POISON, "bytes that are no text"])
async def test_odd_properties_neither_end_the_connection_nor_hide_the_message(
    harness: RabbitHarness, kind: str
) -> None:
    bus = await harness.connect()
    worker = Recorder([Retry(after=0.1), DeadLetter(reason="enough")])
    await bus.subscriber.subscribe(_WORK, worker)
    if kind in _POISON:
        raw = encode_properties(_POISON[kind])
    else:
        raw = struct.pack(">H", 0x8480) + b"\x04\xff\xfe\xfd\xfc" + b"\x02\xc3\x28" + b"\x03\x80\x81\x82"
    await publish_raw(harness.url, harness.namespace, "job.odd", b"payload", raw)
    (letter,) = await buried(bus, "work", 1)
    assert letter.envelope.body == b"payload"
    assert letter.failure.topic == "job.odd"
    assert [one.attempt for one in worker.envelopes] == [1, 2]
    assert bus.health().idle_seconds == {}
    # Where nobody receives it, the letter is the stranger's own message.
    await publish_raw(harness.url, harness.namespace, "nobody.home", b"payload", raw)
    (unrouted,) = await buried(bus, "unrouted", 1)
    assert unrouted.envelope.body == b"payload"
    assert (await bus.dead_letters.letter("unrouted", unrouted.id)).id == unrouted.id
    await bus.dead_letters.discard("unrouted", unrouted.id, reason="test")


async def test_a_cloud_event_is_read_in_both_modes(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    worker = Recorder()
    await bus.subscriber.subscribe(_WORK, worker)
    headers = {"cloudEvents_specversion": "1.0", "cloudEvents_type": "order.placed", "cloudEvents_id": "7"}
    await harness.publish_foreign(
        "job.binary", b"{}", headers={**headers, "cloudEvents_source": "/shop", "colour": "red"}
    )
    event = {"specversion": "1.0", "type": "order.placed", "id": "8", "source": "/shop", "data": {"n": 1}}
    await harness.publish_foreign(
        "job.structured", json.dumps(event).encode(), content_type="application/cloudevents+json"
    )
    binary, structured = sorted(await worker.wait_for(2), key=lambda one: one.topic)
    assert (binary.type, binary.source, dict(binary.headers)) == ("order.placed", "/shop", {"colour": "red"})
    assert (structured.type, structured.content_type, json.loads(structured.body)) == (
        "order.placed", "application/json", {"n": 1},
    )  # fmt: skip


async def test_the_user_the_broker_vouched_for_survives_a_retry_and_cannot_be_claimed(rabbit_node: RabbitNode) -> None:
    harness = RabbitHarness(rabbit_node.url)
    bus = await harness.connect()
    await asyncio.to_thread(rabbit_node.add_user, harness.namespace, "pw", configure=".*", write=".*", read=".*")
    worker = Recorder([Retry(after=0.1)])
    await bus.subscriber.subscribe(
        WorkSubscription(name="work", patterns=("job.#",), retry=RetryPolicy(delays=(1,)), concurrency=1), worker
    )
    stranger = rabbit_node.url.replace("guest:guest", f"{harness.namespace}:pw")
    claim = {"rockbot-user": "root"}
    honest = encode_properties(Properties(user_id=harness.namespace, headers=claim))
    await publish_raw(stranger, harness.namespace, "job.one", b"honest", honest)
    await worker.wait_for(2)
    assert [one.user_id for one in worker.envelopes] == [harness.namespace, harness.namespace]
    await publish_raw(stranger, harness.namespace, "job.one", b"claims", encode_properties(Properties(headers=claim)))
    assert (await worker.wait_for(3))[2].user_id is None
    await bus.publisher.publish(message("job.one"), door=Door.PUBLIC)
    assert (await worker.wait_for(4))[3].user_id == "guest"
    await harness.close()
