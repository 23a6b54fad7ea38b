"""Celery with confirmed publishes and late acknowledgement, its solo pool, and a quorum queue of its own."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

from celery import Celery
from celery.signals import worker_shutdown
from kombu import Queue

from tests.benchmarks.order import ORDER, Order
from tests.benchmarks.window import Window, report


def _app(url: str, queue: str) -> Celery:
    app = Celery("bench", broker=url, backend=None)
    app.conf.update(
        task_queues=[Queue(queue, routing_key=queue, queue_arguments={"x-queue-type": "quorum"})],
        task_default_queue=queue,
        task_default_exchange="",
        task_default_routing_key=queue,
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=100,
        worker_detect_quorum_queues=True,
        broker_transport_options={"confirm_publish": True},
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        task_send_sent_event=False,
    )
    return app


def consume(url: str, queue: str, total: int) -> None:
    """Take, decode, acknowledge when the task has returned; the process ends itself, a solo pool cannot be told to."""
    window = Window(total, warm_up=total // 10)
    app = _app(url, queue)

    @app.task(name="bench.handle")
    def handle(order: dict[str, Any]) -> None:
        Order.model_validate(order)
        window.count()
        if window.seen == window.total:
            # The last task is acknowledged when it has returned, and the worker ends after that.
            os.kill(os.getpid(), signal.SIGTERM)

    @worker_shutdown.connect(weak=False)
    def ended(**_: object) -> None:
        report({"consume": window.result()})

    logging.getLogger("celery").setLevel(logging.ERROR)
    app.worker_main(
        ["worker", "--pool=solo", "--loglevel=ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    )


def publish(url: str, queue: str, total: int) -> None:
    """Confirmed publishes, one after another."""
    window = Window(total, warm_up=0)
    app = _app(url, queue)

    @app.task(name="bench.handle")
    def handle(order: dict[str, Any]) -> None:
        raise AssertionError

    body = ORDER.model_dump()
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        for number in range(100 + total):
            if number == 100:
                window.open()
            handle.apply_async((body,), producer=producer)
        window.close()
    report({"publish": window.result()})


if __name__ == "__main__":
    _, mode, url, queue, total = sys.argv
    (consume if mode == "consume" else publish)(url, queue, int(total))
