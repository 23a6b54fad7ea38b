"""Taskiq over aio-pika: a quorum queue of its own, acknowledgement when the task has ended, its receiver in this process."""

from __future__ import annotations

import asyncio
import logging
import sys

from taskiq.acks import AcknowledgeType
from taskiq.api import run_receiver_task
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue

from tests.benchmarks.order import ORDER, Order
from tests.benchmarks.window import Phases, Window, report, run

logging.getLogger("taskiq").setLevel(logging.ERROR)


def _broker(url: str, queue: str) -> AioPikaBroker:
    return AioPikaBroker(
        url,
        qos=100,
        exchange=Exchange(name=f"{queue}.exchange"),
        task_queues=[Queue(name=queue, routing_key=queue)],
        dead_letter_queue=Queue(name=f"{queue}.dead"),
        delay_queue=Queue(name=f"{queue}.delay"),
    )


async def consume(url: str, queue: str, total: int) -> None:
    """Take, decode, acknowledge when the task has ended."""
    phases = Phases(total)
    broker = _broker(url, queue)

    @broker.task(task_name="bench.handle")
    async def handle(order: Order) -> None:
        assert order.lines
        await phases.work()

    receiver = asyncio.create_task(
        run_receiver_task(broker, run_startup=True, ack_time=AcknowledgeType.WHEN_EXECUTED, max_async_tasks=100)
    )
    result = await phases.done()
    await asyncio.sleep(0.2)  # the last acknowledgements follow the work
    receiver.cancel()
    await asyncio.gather(receiver, return_exceptions=True)
    report(result)


async def publish(url: str, queue: str, total: int, in_flight: int) -> None:
    """Confirmed publishes, `in_flight` of them gathered at a time."""
    window = Window(total, warm_up=0)
    broker = _broker(url, queue)

    @broker.task(task_name="bench.handle")
    async def handle(order: Order) -> None:
        raise AssertionError

    await broker.startup()
    await asyncio.gather(*(handle.kiq(ORDER) for _ in range(in_flight)))
    window.open()
    for _ in range(total // in_flight):
        await asyncio.gather(*(handle.kiq(ORDER) for _ in range(in_flight)))
    window.close()
    await broker.shutdown()
    report({"publish": window.result()})


if __name__ == "__main__":
    _, mode, url, queue, total, *rest = sys.argv
    if mode == "consume":
        run(consume(url, queue, int(total)))
    else:
        run(publish(url, queue, int(total), int(rest[0])))
