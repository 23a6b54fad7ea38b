"""The in-memory part: the whole path of one message inside one process and one core.

Its yardstick is the bare decoding of the same body by pydantic, measured in the same round, because nothing else that
carries messages inside a process does the same work.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.memory import MemoryBus, SqliteBusStorage
from tests.benchmarks import host_path
from tests.benchmarks.order import BODY
from tests.benchmarks.window import Window

__all__ = ["PATHS", "bare_decode", "measure"]

_BATCH: Final = 100

#: How the messages come: published while the host works, or all queued before it begins; and where they are kept.
PATHS: Final = ("memory: publish to settle", "memory: queue to settle", "SQLite: publish to settle")


def measure(path: str, messages: int) -> dict[str, float]:
    """Messages per second and CPU seconds per 10,000 of one run of one path."""
    gc.collect()
    if path == PATHS[0]:
        return asyncio.run(_run(MemoryBus(clock=SystemClock(), ids=RandomIds()), messages, _one_by_one))
    if path == PATHS[1]:
        return asyncio.run(_run(MemoryBus(clock=SystemClock(), ids=RandomIds()), messages, None))
    with tempfile.TemporaryDirectory(prefix="rockbot-bench-") as folder:
        storage = SqliteBusStorage(Path(folder) / "state.db")
        bus = MemoryBus(clock=SystemClock(), ids=RandomIds(), storage=storage)
        return asyncio.run(_run(bus, messages // 4, _in_batches))


def bare_decode(rounds: int = 10_000) -> float:
    """Microseconds of CPU that decoding the body alone takes."""
    decode = host_path.OrderPlaced.model_validate_json
    begun = time.process_time()
    for _ in range(rounds):
        decode(BODY)
    return (time.process_time() - begun) / rounds * 1e6


Producer = Callable[[MemoryBus, int], Awaitable[None]]


async def _run(bus: MemoryBus, messages: int, produce: Producer | None) -> dict[str, float]:
    window = Window(messages, warm_up=messages // 10)
    await bus.open()
    await bus.declare([host_path.ORDERS])
    if produce is None:
        await _one_by_one(bus, messages)
    dispatcher = host_path.dispatcher(bus.publisher, window.work)
    consumption = await bus.subscriber.subscribe(host_path.ORDERS, dispatcher.handler(host_path.ORDERS))
    if produce is not None:
        await produce(bus, messages)
    await window.full.wait()
    await consumption.stop(timeout=10)
    await bus.close()
    return window.result()


async def _one_by_one(bus: MemoryBus, messages: int) -> None:
    for number in range(messages):
        await bus.publish(host_path.envelope(number))


async def _in_batches(bus: MemoryBus, messages: int) -> None:
    for start in range(0, messages, _BATCH):
        numbers = range(start, min(start + _BATCH, messages))
        await bus.publish_many([host_path.envelope(number) for number in numbers])
