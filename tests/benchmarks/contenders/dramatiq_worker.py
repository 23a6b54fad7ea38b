"""Dramatiq with confirmed delivery and one worker thread, on a queue of its own with the arguments of everybody's.

It declares classic queues and cannot be told otherwise; here its declaration is overridden, so that the broker does the same
work for all. It cannot have several confirms under way: publishing is one message after another.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from tests.benchmarks.order import ORDER, Order
from tests.benchmarks.window import Window, report

os.environ.setdefault("dramatiq_queue_prefetch", "100")

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker


class QuorumBroker(RabbitmqBroker):
    """Declares quorum queues."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


def _actor(url: str, queue: str, window: Window, full: threading.Event) -> tuple[QuorumBroker, Any]:
    broker = QuorumBroker(url=url, confirm_delivery=True, middleware=[])
    dramatiq.set_broker(broker)

    @dramatiq.actor(queue_name=queue)
    def handle(order: dict[str, Any]) -> None:
        Order.model_validate(order)
        window.count()
        if window.seen == window.total:
            full.set()

    return broker, handle


def consume(url: str, queue: str, total: int) -> None:
    """Take, decode, acknowledge when the actor has returned."""
    window, full = Window(total, warm_up=total // 10), threading.Event()
    broker, _ = _actor(url, queue, window, full)
    worker = dramatiq.Worker(broker, worker_threads=1)
    worker.start()
    full.wait()
    worker.stop()
    broker.close()
    report({"consume": window.result()})


def publish(url: str, queue: str, total: int) -> None:
    """Confirmed publishes, one after another."""
    window = Window(total, warm_up=0)
    broker, handle = _actor(url, queue, window, threading.Event())
    body = ORDER.model_dump()
    for number in range(100 + total):
        if number == 100:
            window.open()
        handle.send(body)
    window.close()
    broker.close()
    report({"publish": window.result()})


if __name__ == "__main__":
    _, mode, url, queue, total = sys.argv
    (consume if mode == "consume" else publish)(url, queue, int(total))
