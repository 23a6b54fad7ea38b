"""Everything at once: whatever is cut, killed, stopped or cancelled, each message is handled or dead in the end."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import (
    Ack,
    DeadLetter,
    MessageEnvelope,
    Retry,
    RetryPolicy,
    Verdict,
    WorkSubscription,
)
from rockbot_messaging.errors import BrokerUnreachable, NotConfirmed
from rockbot_messaging.ports import Consumption
from rockbot_messaging.rabbitmq import RabbitBus
from rockbot_messaging.testing.harness import buried, message

pytestmark = [pytest.mark.rabbitmq, pytest.mark.crash]

_MESSAGES = 2000
#: Fewer than the broker's limit of unsettled deliveries, so that none of them makes a letter of a sound message.
_ACCIDENTS = 14
_WORK = WorkSubscription(
    name="work", patterns=("job.#",), prefetch=40, concurrency=8, retry=RetryPolicy(max_attempts=3, delays=(0,))
)
_DYING = (b"refused", b"broken")
_NEEDS = [b"sound"] * 40 + [b"large", b"empty", b"once", b"slow", b"cancelled", b"after", *_DYING]


async def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


class _Chaos:
    """Two consuming and two publishing connections, and the accidents that befall them."""

    def __init__(self, harness: RabbitHarness, seed: int) -> None:
        self.harness = harness
        self.random = random.Random(seed)
        self.deliveries: Counter[str] = Counter()
        self.handled: Counter[str] = Counter()
        self.repeated = 0
        self.publishers: list[RabbitBus] = []
        self.consumers: list[tuple[RabbitBus, Consumption]] = []
        self.accidents = sorted(self.random.sample(range(50, _MESSAGES - 100), _ACCIDENTS))
        self.repairs: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        for _ in range(2):
            self.publishers.append(await self.harness.connect())
            await self.publishers[-1].declare([_WORK])
            await self.consume()

    async def consume(self) -> None:
        bus = await self.harness.connect()
        self.consumers.append((bus, await bus.subscriber.subscribe(_WORK, self.handle)))

    async def handle(self, envelope: MessageEnvelope) -> Verdict:
        need, one = envelope.headers["need"], envelope.message_id
        first = not self.deliveries[one]
        self.deliveries[one] += 1
        if self.accidents and self.deliveries.total() >= self.accidents[0]:
            self.accidents.pop(0)
            task = asyncio.create_task(self.accident())
            self.repairs.add(task)
        if need == "slow":
            for _ in range(200):
                await asyncio.sleep(0)
        elif need == "cancelled" and first:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        elif need == "once" and envelope.attempt == 1:
            raise RuntimeError("not yet")
        elif need == "after" and envelope.attempt == 1:
            return Retry(after=0, reason="again")
        elif need == "refused":
            return DeadLetter(reason="refused")
        elif need == "broken":
            raise ValueError("broken")
        self.handled[one] += 1
        return Ack()

    async def accident(self) -> None:
        kind = self.random.choice(["cut consumer", "cut publisher", "kill", "stop", "cut all"])
        if kind in ("cut consumer", "cut all"):
            self.random.choice(self.consumers)[0].cut()
        if kind in ("cut publisher", "cut all"):
            self.random.choice(self.publishers).cut()
        if kind in ("kill", "stop") and len(self.consumers) > 1:
            bus, consumption = self.consumers.pop(self.random.randrange(len(self.consumers)))
            if kind == "kill":
                bus.kill()
            else:
                await consumption.stop(timeout=self.random.choice([0, 5]))
                await bus.close()
            await self.consume()

    async def publish(self, bus: RabbitBus, mine: Sequence[MessageEnvelope]) -> None:
        at = 0
        while at < len(mine):
            size = self.random.choice([1, 1, 7, 50])
            part = mine[at : at + size]
            try:
                await (bus.publisher.publish(part[0]) if len(part) == 1 else bus.publisher.publish_many(part))
            except (NotConfirmed, BrokerUnreachable):
                self.repeated += 1
                continue
            at += len(part)


async def test_two_thousand_messages_survive_cuts_kills_stops_failures_and_cancellations(
    harness: RabbitHarness, caplog: pytest.LogCaptureFixture
) -> None:
    seed = int(os.environ.get("ROCKBOT_TEST_SEED", "0")) or random.randrange(1, 2**32)
    print(f"seed {seed} (ROCKBOT_TEST_SEED repeats it)")
    unheard: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    chaos = _Chaos(harness, seed)
    sent: list[MessageEnvelope] = []
    for _ in range(_MESSAGES):
        need = chaos.random.choice(_NEEDS)
        body = {b"large": bytes(300_000), b"empty": b""}.get(need, b"x" * chaos.random.randrange(400))
        sent.append(message("job.one", body).replace(headers={"need": need.decode()}))
    dying = {one.message_id for one in sent if str(one.headers["need"]).encode() in _DYING}
    sound = {one.message_id for one in sent} - dying
    async with asyncio.timeout(200):
        await chaos.open()
        await asyncio.gather(
            chaos.publish(chaos.publishers[0], sent[::2]), chaos.publish(chaos.publishers[1], sent[1::2])
        )
        await _until(lambda: set(chaos.handled) >= sound)
        await asyncio.gather(*chaos.repairs)
    reader = chaos.publishers[0]
    await buried(reader, "work", len(dying))
    async with asyncio.timeout(60):
        dead: Counter[str] = Counter()
        while not set(dead) >= dying:
            dead = Counter(one.id for one in await reader.dead_letters.letters("work", limit=10 * _MESSAGES))
    print(
        f"{_MESSAGES} messages, {chaos.deliveries.total()} deliveries, {len(sound)} handled with "
        f"{chaos.handled.total() - len(sound)} copies, {len(dead)} dead with {dead.total() - len(dead)} copies, "
        f"{chaos.repeated} publishes repeated, {_ACCIDENTS - len(chaos.accidents)} accidents"
    )
    assert set(chaos.handled) == sound
    assert set(dead) == dying
    assert not chaos.accidents
    # The last accident may have befallen a copy, after everything was handled.
    await asyncio.gather(*chaos.repairs)
    await _until(lambda: not any(bus.health().idle_seconds for bus, _ in chaos.consumers))
    for bus in (*chaos.publishers, *(bus for bus, _ in chaos.consumers)):
        await bus.close()
    assert not unheard
    assert "settled twice" not in caplog.text and "PRECONDITION_FAILED" not in caplog.text
