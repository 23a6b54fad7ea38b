"""A million messages through one host: whether memory and the cost per message stay where they were.

One process publishes, never far ahead, another consumes with codec, chain and settlement; both say every hundred thousand
messages what they cost and how large they are. ``make bench-long``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pika

from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from tests.benchmarks import host_path
from tests.benchmarks.broker import IN_FLIGHT, broker_url

_NAMESPACE = "bench-long"
#: Messages that may wait in the queue before the publisher pauses.
_AHEAD = 20_000
#: Later stages may cost or hold this much more than the second (the first one warms up).
_TOLERANCE = 1.25


def _resident() -> float:
    """Mebibytes of memory this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


class _Stages:
    """Prints a line per stage."""

    def __init__(self, role: str, size: int) -> None:
        self._role = role
        self._size = size
        self._seen = 0
        self._since = (time.perf_counter(), time.process_time())

    def count(self, messages: int = 1) -> None:
        self._seen += messages
        if self._seen % self._size < messages:
            now = (time.perf_counter(), time.process_time())
            line = {
                "role": self._role,
                "messages": self._seen,
                "rate": self._size / (now[0] - self._since[0]),
                "cpu": (now[1] - self._since[1]) / self._size * 10_000,
                "resident": _resident(),
            }
            print(json.dumps(line), flush=True)
            self._since = now


def _bus(url: str) -> RabbitBus:
    return RabbitBus(RabbitSettings(url=url, namespace=_NAMESPACE), clock=SystemClock(), ids=RandomIds())


async def _consume(url: str, total: int, stage: int) -> None:
    stages, full, seen = _Stages("consume", stage), asyncio.Event(), 0

    async def work() -> None:
        nonlocal seen
        seen += 1
        stages.count()
        if seen == total:
            full.set()

    bus = _bus(url)
    await bus.open()
    await bus.declare([host_path.ORDERS])
    dispatcher = host_path.dispatcher(bus.publisher, work)
    consumption = await bus.subscriber.subscribe(host_path.ORDERS, dispatcher.handler(host_path.ORDERS))
    await full.wait()
    await consumption.stop(timeout=10)
    await bus.close()


async def _publish(url: str, total: int, stage: int) -> None:
    stages = _Stages("publish", stage)
    bus = _bus(url)
    await bus.open()
    await bus.declare([host_path.ORDERS])
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url + "?heartbeat=0"))) as connection:
        channel = connection.channel()
        for start in range(0, total, IN_FLIGHT):
            numbers = range(start, start + IN_FLIGHT)
            await bus.publisher.publish_many([host_path.envelope(number) for number in numbers])
            stages.count(IN_FLIGHT)
            if start % (_AHEAD // 2) == 0:
                queue = f"{_NAMESPACE}.{host_path.ORDERS.name}"
                while channel.queue_declare(queue, passive=True).method.message_count > _AHEAD:
                    await asyncio.sleep(0.05)
    await bus.close()


def main() -> int:
    """Exit code 1: memory or cost grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.long", description=__doc__)
    parser.add_argument("role", nargs="?", choices=("consume", "publish"), help=argparse.SUPPRESS)
    parser.add_argument("url", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--messages", type=int, default=1_000_000)
    options = parser.parse_args()
    stage = options.messages // 10
    if options.role:
        asyncio.run((_consume if options.role == "consume" else _publish)(options.url, options.messages, stage))
        return 0
    lines: list[dict[str, float | str]] = []
    with broker_url() as url:
        children = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.long", role, url, "--messages", str(options.messages)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for role in ("consume", "publish")
        ]
        try:
            # Their lines are few, so the second one's wait in its pipe.
            for child in children:
                assert child.stdout is not None
                for line in child.stdout:
                    lines.append(json.loads(line))
                    print(_row(lines[-1]), flush=True)
                if child.wait():
                    return child.returncode
        finally:
            for child in children:
                child.kill()
    return _verdict(lines)


def _row(line: dict[str, float | str]) -> str:
    return (
        f"{line['role']:>8} {line['messages']:>9,} messages  {line['rate']:>8,.0f}/s  {line['cpu']:.3f} CPU s per 10k"
        f"  {line['resident']:.0f} MiB"
    )


def _verdict(lines: list[dict[str, float | str]]) -> int:
    worse = 0
    for role in ("consume", "publish"):
        _, second, *_, last = [line for line in lines if line["role"] == role]
        for what in ("cpu", "resident"):
            growth = float(last[what]) / float(second[what])
            print(f"{role}: {what} of the last stage is {growth:.2f} times the second's")
            worse |= growth > _TOLERANCE
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
