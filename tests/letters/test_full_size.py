"""Many letters: how long questions and actions take, and how much memory. Figures are printed (``pytest -s``)."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from letters.scene import done

from rockbot.letters.models import LetterFilter, ReplayOptions
from rockbot.letters.service import LetterService
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.letters import Failure
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.subscriptions import WorkSubscription

FULL = bool(os.environ.get("ROCKBOT_TEST_FULL"))
COUNT = 100_000 if FULL else 10_000
#: Seconds for a question and for work on all letters. They are seconds of CPU, which other tests on the same machine do not
#: lengthen; on an idle one there is little waiting besides.
QUESTION, SCAN = (2.0, 60.0) if FULL else (1.0, 10.0)
MEMORY_MB = 200.0

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1200 if FULL else 120)]
KINDS = (
    ("ValueError", "order {number} has no items"),
    ("TimeoutError", "no answer from https://api.example/{id} in 30 s"),
    ("KeyError", "'{id}' is missing"),
    ("PermanentFailure", "customer {id} is unknown"),
    ("ConnectionError", "gave up after 5 attempts: 10.0.0.{number} refused the connection"),
)


def _memory() -> float:
    """Megabytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def test_many_letters_are_listed_and_worked_in_time_and_in_little_memory(tmp_path: Path) -> None:
    clock = SystemClock()
    store = SqliteStateStore(tmp_path / "state.db", clock)
    bus = MemoryBus(clock=clock)
    await store.open()
    await bus.open()
    await bus.declare([WorkSubscription(name="orders", patterns=("order.#",))])
    await _bury(bus, clock)
    before = peak = _memory()
    desk = LetterService(
        letters=bus.dead_letters,
        publisher=bus.publisher,
        store=store,
        clock=clock,
        ids=RandomIds(),
        owner="test",
        namespace="rockbot",
        source="test",
    )
    slow: dict[str, float] = {}

    async def timed(what: str, limit: float, act: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal peak
        started, cpu = time.perf_counter(), time.process_time()
        result = await act()
        used = time.process_time() - cpu
        peak = max(peak, _memory())
        print(f"{COUNT} letters, {what}: {time.perf_counter() - started:.2f} s, {used:.2f} s of CPU")
        if used > limit:
            slow[what] = used
        return result

    assert (await timed("first scan", SCAN, lambda: done(desk.scan()))).worked == COUNT
    (orders, _) = await timed("queues", QUESTION, desk.queues)
    assert (orders.depth, orders.indexed) == (COUNT, COUNT)
    groups = await timed("groups", QUESTION, lambda: desk.groups(LetterFilter()))
    assert [group.count for group in groups] == [COUNT // 5] * 5
    since = orders.oldest_ms + (orders.newest_ms - orders.oldest_ms) // 2
    wanted: dict[str, tuple[dict[str, Any], int]] = {
        "everything": ({}, COUNT),
        "queue": ({"queue": "orders"}, COUNT),
        "ids": ({"ids": ("ffffffff-ffff", "00000000")}, 0),
        "type": ({"type": "shop.order"}, COUNT),
        "error": ({"error": "KeyError"}, COUNT // 5),
        "handler": ({"handler": "shop"}, COUNT),
        "topic": ({"topic": "order.*.3"}, COUNT // 10),
        "conversation": ({"conversation": "c7"}, COUNT // 1000),
        "task": ({"task": "t7"}, COUNT // 1000),
        "text": ({"text": "No Items"}, COUNT // 5),
        "group": ({"group": groups[0].id}, COUNT // 5),
        "since": ({"since_ms": since}, COUNT // 2),
    }
    for what, (which, expected) in wanted.items():
        page = await timed(f"find by {what}", QUESTION, lambda which=which: desk.find(LetterFilter(**which)))
        assert page.total == expected, what
    seen, after = set(), None
    for _ in range(4):
        page = await timed(
            "a page", QUESTION, lambda after=after: desk.find(LetterFilter(), after=after, order="newest")
        )
        seen |= {row.id for row in page.letters}
        after = page.next
    assert len(seen) == 200
    await timed(
        "replay of a fifth", SCAN, lambda: done(desk.replay(LetterFilter(error="KeyError"), ReplayOptions(), actor="t"))
    )
    await timed(
        "discard of a fifth", SCAN, lambda: done(desk.discard(LetterFilter(error="ValueError"), reason="t", actor="t"))
    )
    await timed("restore", SCAN, lambda: done(desk.restore(LetterFilter(), actor="t")))
    (orders, _) = await desk.queues()
    assert (orders.depth, orders.indexed) == (COUNT - COUNT // 5, COUNT - COUNT // 5)
    print(f"{COUNT} letters, memory beside the letters themselves: {peak - before:.0f} MB")
    await bus.close()
    await store.close()
    assert not slow
    assert peak - before < MEMORY_MB


async def _bury(bus: MemoryBus, clock: SystemClock) -> None:
    started = clock.now_ms() - 7_200_000
    for number in range(COUNT):
        error, reason = KINDS[number % 5]
        envelope = MessageEnvelope(
            topic=f"order.created.{number % 10}",
            body=b'{"order": %d, "note": "%s"}' % (number, b"x" * 150),
            message_id=str(uuid.uuid4()),
            type="shop.order",
            source="shop",
            conversation_id=f"c{number % 1000}",
            root_task_id=f"t{number % 1000}",
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        failure = Failure(
            reason=reason.format(number=number % 250, id=uuid.uuid4()),
            queue="orders",
            topic=envelope.topic,
            at_ms=started + number * 60,
            attempt=5,
            error_type=error,
            handler="shop",
        )
        await bus.dead_letters.bury("orders", envelope, failure)
        if number % 500 == 0:
            await asyncio.sleep(0)
