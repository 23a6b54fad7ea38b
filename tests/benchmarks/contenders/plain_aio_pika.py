"""The yardstick: aio-pika as its own documentation uses it, `queue.consume` and `message.ack()`, nothing around it."""

from __future__ import annotations

import asyncio
import sys
import uuid

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from tests.benchmarks.order import BODY, Order
from tests.benchmarks.window import Phases, Window, report, run


async def consume(url: str, queue_name: str, total: int, prefetch: int) -> None:
    """Take, decode, acknowledge."""
    phases = Phases(total)
    connection = await aio_pika.connect_robust(url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=prefetch)
        queue = await channel.get_queue(queue_name, ensure=False)

        async def handle(message: AbstractIncomingMessage) -> None:
            Order.model_validate_json(message.body)
            await phases.work()
            await message.ack()

        await queue.consume(handle)
        result = await phases.done()
        await asyncio.sleep(0.2)  # the last acknowledgements follow the work
    report(result)


async def publish(url: str, exchange_name: str, topic: str, total: int, in_flight: int) -> None:
    """Confirmed publishes, `in_flight` of them gathered at a time."""
    window = Window(total, warm_up=0)
    connection = await aio_pika.connect_robust(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(exchange_name, ensure=False)

        async def send() -> None:
            message = aio_pika.Message(
                BODY,
                message_id=str(uuid.uuid4()),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await exchange.publish(message, routing_key=topic, mandatory=True)

        await asyncio.gather(*(send() for _ in range(in_flight)))
        window.open()
        for _ in range(total // in_flight):
            await asyncio.gather(*(send() for _ in range(in_flight)))
        window.close()
    report({"publish": window.result()})


if __name__ == "__main__":
    _, mode, url, *rest = sys.argv
    if mode == "consume":
        run(consume(url, rest[0], int(rest[1]), int(rest[2])))
    else:
        run(publish(url, rest[0], rest[1], int(rest[2]), int(rest[3])))
