"""Our path: the RabbitMQ provider, and for consuming the dispatcher with codec, chain and settlement."""

from __future__ import annotations

import asyncio
import sys

from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from tests.benchmarks import host_path
from tests.benchmarks.window import Phases, Window, report, run


def _bus(url: str, namespace: str) -> RabbitBus:
    return RabbitBus(RabbitSettings(url=url, namespace=namespace), clock=SystemClock(), ids=RandomIds())


async def consume(url: str, namespace: str, total: int) -> None:
    """Take, decode, run the chain, settle."""
    phases = Phases(total)
    bus = _bus(url, namespace)
    await bus.open()
    await bus.declare([host_path.ORDERS])
    dispatcher = host_path.dispatcher(bus.publisher, phases.work)
    consumption = await bus.subscriber.subscribe(host_path.ORDERS, dispatcher.handler(host_path.ORDERS))
    result = await phases.done()
    await consumption.stop(timeout=10)
    await bus.close()
    report(result)


async def publish(url: str, namespace: str, total: int, in_flight: int, *, batched: bool) -> None:
    """Confirmed publishes, `in_flight` at a time: as one batch, or as so many concurrent calls."""
    window = Window(total, warm_up=0)
    bus = _bus(url, namespace)
    await bus.open()
    await bus.declare([host_path.ORDERS])
    publisher = bus.publisher

    async def send(number: int) -> None:
        await publisher.publish(host_path.envelope(number))

    async def batch(start: int) -> None:
        numbers = range(start, start + in_flight)
        if batched:
            await publisher.publish_many([host_path.envelope(number) for number in numbers])
        else:
            await asyncio.gather(*(send(number) for number in numbers))

    await batch(0)
    window.open()
    for start in range(in_flight, total + in_flight, in_flight):
        await batch(start)
    window.close()
    await bus.close()
    report({"publish-many" if batched else "publish": window.result()})


if __name__ == "__main__":
    _, mode, url, namespace, total, *rest = sys.argv
    if mode == "consume":
        run(consume(url, namespace, int(total)))
    else:
        run(publish(url, namespace, int(total), int(rest[0]), batched=mode == "publish-many"))
