"""FastStream on RabbitMQ with its per-message log lines switched off; the handler's annotation decodes the body."""

from __future__ import annotations

import asyncio
import sys

from faststream import AckPolicy
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.schemas.queue import QueueType

from tests.benchmarks.order import ORDER, Order
from tests.benchmarks.window import Phases, Window, report, run


async def consume(url: str, queue_name: str, total: int, prefetch: int) -> None:
    """Take, decode, acknowledge when the handler has returned."""
    phases = Phases(total)
    broker = RabbitBroker(url, logger=None)
    queue = RabbitQueue(queue_name, queue_type=QueueType.QUORUM, durable=True, declare=False)

    @broker.subscriber(queue, channel=Channel(prefetch_count=prefetch), ack_policy=AckPolicy.REJECT_ON_ERROR)
    async def handle(order: Order) -> None:
        assert order.lines
        await phases.work()

    async with broker:
        await broker.start()
        result = await phases.done()
        await asyncio.sleep(0.2)  # the last acknowledgements follow the work
    report(result)


async def publish(url: str, exchange_name: str, topic: str, total: int, in_flight: int) -> None:
    """Confirmed publishes, `in_flight` of them gathered at a time."""
    window = Window(total, warm_up=0)
    broker = RabbitBroker(url, logger=None)
    exchange = RabbitExchange(exchange_name, type=ExchangeType.TOPIC, declare=False)
    publisher = broker.publisher(exchange=exchange, routing_key=topic, persist=True)
    async with broker:
        await broker.start()
        await asyncio.gather(*(publisher.publish(ORDER) for _ in range(in_flight)))
        window.open()
        for _ in range(total // in_flight):
            await asyncio.gather(*(publisher.publish(ORDER) for _ in range(in_flight)))
        window.close()
    report({"publish": window.result()})


if __name__ == "__main__":
    _, mode, url, *rest = sys.argv
    if mode == "consume":
        run(consume(url, rest[0], int(rest[1]), int(rest[2])))
    else:
        run(publish(url, rest[0], rest[1], int(rest[2]), int(rest[3])))
