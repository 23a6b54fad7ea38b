"""What goes wrong between two lines of ours: half a log-in, a cancelled farewell, a verdict that is none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from aiormq import spec
from pamqp.frame import marshal
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import Ack, MessageEnvelope, Retry, RetryPolicy, Verdict, WorkSubscription
from rockbot_messaging.errors import BrokerUnreachable, TopologyMismatch, Unroutable
from rockbot_messaging.letters import Failure
from rockbot_messaging.rabbitmq import RabbitSettings
from rockbot_messaging.rabbitmq.acks import Acks
from rockbot_messaging.rabbitmq.channel import Channel, ChannelLost
from rockbot_messaging.rabbitmq.connection import Link
from rockbot_messaging.rabbitmq.handling import Item
from rockbot_messaging.rabbitmq.publisher import Packer
from rockbot_messaging.rabbitmq.settling import Settler
from rockbot_messaging.rabbitmq.tap import Outbox
from rockbot_messaging.rabbitmq.topology import Names
from rockbot_messaging.rabbitmq.wire import Delivery
from rockbot_messaging.settlement import Bury
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import buried, message

_WORK = WorkSubscription(name="work", patterns=("job.#",))
_TWICE = WorkSubscription(name="work", patterns=("job.#",), retry=RetryPolicy(max_attempts=2, delays=(0,)))
_START = marshal(spec.Connection.Start(server_properties={}, mechanisms="PLAIN", locales="en_US"), 0)


@asynccontextmanager
async def _server(answer: bytes) -> AsyncIterator[int]:
    """A server that says this and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    "answer", [b"", _START, _START[:-1] + b"!", b"HTTP/1.0 503 Service Unavailable\r\n\r\n" * 9, _START + b"\1\0\0" * 9]
)
async def test_a_server_that_hangs_up_or_talks_nonsense_is_an_unreachable_broker(answer: bytes) -> None:
    async with _server(answer) as port:
        url = f"amqp://guest:secret@127.0.0.1:{port}/"
        link = Link(RabbitSettings(url=url, connect_timeout=0.3, reconnect_interval=0.1), "test")
        with pytest.raises(BrokerUnreachable) as caught:
            await link.open()
        assert "secret" not in str(caught.value)
        await link.close()


@asynccontextmanager
async def _proxy(url: str, accepted: list[float], end: bytes) -> AsyncIterator[int]:
    """Passes everything on, and ends each connection once the server has said `end`."""
    target = RabbitSettings(url=url).address.rpartition(":")
    pumps: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, until: bytes) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            if until and until in data:
                break
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(asyncio.get_running_loop().time())
        to, back = await asyncio.open_connection(target[0], int(target[2]))
        for task in (pump(reader, back, until=b""), pump(to, writer, until=end)):
            pumps.add(asyncio.create_task(task))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*pumps, return_exceptions=True)


@pytest.mark.rabbitmq
async def test_a_broker_that_ends_every_connection_is_not_stormed(amqp_url: str) -> None:
    accepted: list[float] = []
    async with _proxy(amqp_url, accepted, marshal(spec.Connection.OpenOk(), 0)) as port:
        url = amqp_url.replace(RabbitSettings(url=amqp_url).address, f"127.0.0.1:{port}")
        link = Link(RabbitSettings(url=url, reconnect_interval=0.2), "test", lambda: 1.0)
        await link.open()
        async with asyncio.timeout(60):
            while len(accepted) < 4:
                await asyncio.sleep(0)
        await link.close()
    # Each pause is twice the one before, and by chance a half longer.
    assert accepted[3] - accepted[0] >= (0.2 + 0.4 + 0.8) * 1.5


@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        (None, "TypeError"),
        ("ack", "TypeError"),
        (Retry(after=math.inf), "ValueError"),
        (Retry(after=math.nan), "ValueError"),
    ],
)
async def test_a_verdict_that_cannot_be_carried_out_is_a_failed_attempt(
    harness: RabbitHarness, verdict: Any, error: str
) -> None:
    bus = await harness.connect()

    async def handler(envelope: MessageEnvelope) -> Verdict:
        return cast("Verdict", verdict)

    await bus.subscriber.subscribe(_TWICE, handler)
    sent = message("job.one")
    await bus.publisher.publish(sent)
    (letter,) = await buried(bus, "work", 1)
    assert letter.id == sent.message_id
    assert error in letter.failure.history[0]


@pytest.mark.rabbitmq
async def test_a_handler_that_raises_is_told_with_queue_message_and_place(
    harness: RabbitHarness, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await harness.connect()

    async def handler(envelope: MessageEnvelope) -> Verdict:
        raise KeyError("stock")

    await bus.subscriber.subscribe(_TWICE, handler)
    sent = message("job.one")
    await bus.publisher.publish(sent)
    await buried(bus, "work", 1)
    told = [record.getMessage() for record in caplog.records if record.name == "rockbot_messaging.failing"]
    assert len(told) == 2
    for attempt, line in enumerate(told, start=1):
        assert f".work failed at message {sent.message_id}, attempt {attempt}: KeyError: 'stock'" in line
        assert "test_mishaps.py:" in line


class _Wire:
    """A stream writer that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False


@pytest.mark.rabbitmq
@pytest.mark.parametrize("trouble", [ChannelLost("no answer"), KeyError("a mistake of ours")])
async def test_a_delivery_goes_back_whatever_keeps_its_copy_from_being_stored(
    harness: RabbitHarness, trouble: Exception
) -> None:
    bus, settings, wire = await harness.connect(), harness.settings(), _Wire()
    loop = asyncio.get_running_loop()
    channel = Channel(1, 131072, Outbox(cast("asyncio.StreamWriter", wire), loop))

    async def restore(step: int | None) -> None:
        raise trouble

    settler = Settler("nowhere", Names(harness.namespace), Packer(settings), bus._sender, restore)
    item = Item(Delivery(7, "", "job", b"\0\0", b"", redelivered=False), channel, Acks(channel, batch=1), alone=False)
    failure = Failure(reason="no", queue="nowhere", topic="job", at_ms=0)
    await settler.carry_out(Bury(message("job"), failure), item)
    channel.flush()
    assert wire.written[7:11] == b"\0\x3c\0\x78"


@pytest.mark.rabbitmq
async def test_stopping_goes_on_when_its_caller_is_cancelled(harness: RabbitHarness) -> None:
    bus, other = await harness.connect(), await harness.connect()
    held, second = Recorder(held=True), Recorder()
    consumption = await bus.subscriber.subscribe(_WORK, held)
    await bus.publisher.publish(message("job.one"))
    await held.wait_for(1)
    stopping = asyncio.create_task(consumption.stop(timeout=60))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    await other.subscriber.subscribe(_WORK, second)
    await bus.publisher.publish(message("job.two"))
    await second.wait_for(1)
    await consumption.stop(timeout=0)
    await second.wait_for(2)
    assert set(held.ids) < set(second.ids)


@pytest.mark.rabbitmq
async def test_a_cancelled_close_may_be_asked_for_again(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    await bus.subscriber.subscribe(_WORK, Recorder())
    closing = asyncio.create_task(bus.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await bus.close()
    assert not bus.health().connected


@pytest.mark.rabbitmq
async def test_closing_while_connecting_again_leaves_no_connection(amqp_url: str) -> None:
    accepted: list[float] = []
    never = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(0)
        while await reader.read(65536):
            pass
        never.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        link = Link(RabbitSettings(url=f"amqp://127.0.0.1:{port}/", connect_timeout=30), "test")
        opening = asyncio.create_task(link.open())
        async with asyncio.timeout(60):
            while not accepted:
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            await link.close()
            await never.wait()


@pytest.mark.rabbitmq
async def test_a_deleted_unrouted_queue_is_made_again_when_it_is_needed(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    channel = await harness.stranger()
    await channel.queue_delete(f"{harness.namespace}.unrouted")
    sent = message("job.nobody")
    with pytest.raises(Unroutable, match=r"job\.nobody"):
        await bus.publisher.publish(sent)
    (letter,) = await buried(bus, "unrouted", 1)
    assert letter.id == sent.message_id


@pytest.mark.rabbitmq
async def test_a_queue_that_belongs_to_somebody_alone_is_a_mismatch(harness: RabbitHarness) -> None:
    channel = await harness.stranger()
    await channel.declare_queue(f"{harness.namespace}.work", exclusive=True)
    bus = await harness.connect()
    with pytest.raises(TopologyMismatch, match="another connection"):
        await bus.declare([_WORK])


@pytest.mark.rabbitmq
async def test_a_subscription_that_begins_during_the_close_does_not_outlive_it(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    beginning = asyncio.create_task(bus.subscriber.subscribe(_WORK, Recorder(lambda _: Ack())))
    async with asyncio.timeout(60):
        while not bus._provision.work:
            await asyncio.sleep(0)
    await bus.subscriber.close()
    await asyncio.wait([beginning])
    assert beginning.exception() is not None
    assert not bus.subscriber.running
