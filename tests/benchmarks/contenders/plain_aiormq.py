"""The layer below aio-pika, used directly: `basic_consume`, `basic_ack`, `basic_publish`, nothing around it."""

from __future__ import annotations

import asyncio
import sys
import uuid

import aiormq
from aiormq.abc import DeliveredMessage

from tests.benchmarks.order import BODY, Order
from tests.benchmarks.window import Phases, Window, report, run


async def consume(url: str, queue: str, total: int, prefetch: int) -> None:
    """Take, decode, acknowledge."""
    phases = Phases(total)
    connection = await aiormq.connect(url)
    channel = await connection.channel()
    await channel.basic_qos(prefetch_count=prefetch)

    async def handle(message: DeliveredMessage) -> None:
        Order.model_validate_json(message.body)
        await phases.work()
        assert message.delivery_tag is not None
        await channel.basic_ack(message.delivery_tag, wait=False)

    await channel.basic_consume(queue, handle)
    result = await phases.done()
    await asyncio.sleep(0.2)  # the last acknowledgements follow the work
    await connection.close()
    report(result)


async def publish(url: str, exchange: str, topic: str, total: int, in_flight: int) -> None:
    """Confirmed publishes, `in_flight` of them gathered at a time."""
    window = Window(total, warm_up=0)
    connection = await aiormq.connect(url)
    channel = await connection.channel(publisher_confirms=True)

    async def send() -> None:
        properties = aiormq.spec.Basic.Properties(
            message_id=str(uuid.uuid4()), content_type="application/json", delivery_mode=2
        )
        await channel.basic_publish(BODY, exchange=exchange, routing_key=topic, properties=properties, mandatory=True)

    await asyncio.gather(*(send() for _ in range(in_flight)))
    window.open()
    for _ in range(total // in_flight):
        await asyncio.gather(*(send() for _ in range(in_flight)))
    window.close()
    await connection.close()
    report({"publish": window.result()})


if __name__ == "__main__":
    _, mode, url, *rest = sys.argv
    if mode == "consume":
        run(consume(url, rest[0], int(rest[1]), int(rest[2])))
    else:
        run(publish(url, rest[0], rest[1], int(rest[2]), int(rest[3])))
