"""Two thousand messages through the embedded queues while buses are killed; and mistakes that must not leave anybody waiting."""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import NotConfirmed
from rockbot_messaging.memory import MemoryBroker, MemoryBus, SqliteBusStorage
from rockbot_messaging.memory.storage import Place, Row
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.testing.harness import message
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

_MESSAGES = 2000
_KILLS = 14
_WORK = WorkSubscription(
    name="work", patterns=("job.#",), prefetch=40, concurrency=8, retry=RetryPolicy(max_attempts=3, delays=(1,))
)


class _Chaos:
    def __init__(self, broker: MemoryBroker, seed: int) -> None:
        self.broker = broker
        self.random = random.Random(seed)
        self.kills = sorted(self.random.sample(range(50, _MESSAGES), _KILLS))
        self.deliveries = 0
        self.handled: Counter[str] = Counter()
        self.consumers: list[MemoryBus] = []
        self.repairs: list[asyncio.Task[None]] = []

    async def consume(self) -> None:
        bus = MemoryBus(broker=self.broker)
        await bus.open()
        self.consumers.append(bus)
        await bus.subscriber.subscribe(_WORK, self.handle)

    async def replace(self) -> None:
        await self.consumers.pop(self.random.randrange(len(self.consumers))).kill()
        await self.consume()

    async def handle(self, envelope: MessageEnvelope) -> Verdict:
        self.deliveries += 1
        if self.kills and self.deliveries >= self.kills[0]:
            self.kills.pop(0)
            self.repairs.append(asyncio.create_task(self.replace()))
        need = envelope.body
        if need == b"slow":
            for _ in range(50):
                await asyncio.sleep(0)
        elif need == b"cancelled" and not envelope.redelivered:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        elif need == b"once" and envelope.attempt == 1:
            raise RuntimeError("not yet")
        elif need == b"refused":
            return DeadLetter(reason="refused")
        elif need == b"broken":
            raise ValueError("broken")
        self.handled[envelope.message_id] += 1
        return Ack()


async def test_two_thousand_messages_survive_kills_failures_and_cancellations(tmp_path: Path) -> None:
    seed = int(os.environ.get("ROCKBOT_TEST_SEED", "0")) or random.randrange(1, 2**32)
    print(f"seed {seed} (ROCKBOT_TEST_SEED repeats it)")
    unheard: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    clock = FakeClock()
    chaos = _Chaos(MemoryBroker(clock=clock, storage=SqliteBusStorage(tmp_path / "state.db")), seed)
    needs = [b"sound"] * 30 + [b"slow", b"cancelled", b"once", b"refused", b"broken"]
    sent = [message("job.one", chaos.random.choice(needs)) for _ in range(_MESSAGES)]
    dying = Counter(one.message_id for one in sent if one.body in (b"refused", b"broken"))
    sound = {one.message_id for one in sent} - set(dying)
    publishers = [MemoryBus(broker=chaos.broker) for _ in range(2)]
    for bus in publishers:
        await bus.open()
        await chaos.consume()
    await publishers[0].declare([WorkSubscription(name="idle", patterns=("breath",))])

    async def publish(bus: MemoryBus, mine: list[MessageEnvelope]) -> None:
        for at in range(0, len(mine), 20):
            await bus.publisher.publish_many(mine[at : at + 20])

    dead: Counter[str] = Counter()
    async with asyncio.timeout(60):
        await asyncio.gather(publish(publishers[0], sent[::2]), publish(publishers[1], sent[1::2]))
        while set(chaos.handled) < sound or dead.total() < dying.total():
            clock.advance(1)
            # Waiting for a commit leaves the interpreter to the writing thread, which spinning would not.
            await publishers[0].publish(message("breath"))
            letters = await publishers[0].dead_letters.letters("work", limit=_MESSAGES)
            dead = Counter(letter.id for letter in letters)
        await asyncio.gather(*chaos.repairs)
    print(f"{chaos.deliveries} deliveries, {chaos.handled.total() - len(sound)} copies handled, {dead.total()} dead")
    assert set(chaos.handled) == sound
    assert dead == dying
    assert not chaos.kills
    for bus in (*publishers, *chaos.consumers):
        await bus.close()
    assert not unheard


async def test_a_change_that_cannot_be_written_at_all_keeps_nobody_waiting(tmp_path: Path) -> None:
    storage = SqliteBusStorage(tmp_path / "state.db")
    await storage.open()
    unwritable = Row(number=2**70, queue="q", place=Place.READY, envelope=b"{}\n")
    async with asyncio.timeout(60):
        with pytest.raises(NotConfirmed, match=r"state\.db"):
            await storage.apply([unwritable], ())
        await storage.apply([Row(number=1, queue="q", place=Place.READY, envelope=b"{}\n")], ())
    await storage.close()


@pytest.mark.parametrize(("after", "error"), [(math.inf, "ValueError"), (math.nan, "ValueError")])
async def test_a_wait_that_is_no_number_of_seconds_is_a_failed_attempt(after: float, error: str) -> None:
    clock = FakeClock()
    bus = MemoryBus(clock=clock)
    await bus.open()
    deliveries = 0

    async def handler(envelope: MessageEnvelope) -> Verdict:
        nonlocal deliveries
        deliveries += 1
        return Retry(after=after)

    await bus.subscriber.subscribe(_WORK, handler)
    await bus.publisher.publish(message("job.one"))
    async with asyncio.timeout(60):
        while not (letters := await bus.dead_letters.letters("work")):
            clock.advance(1)
            await asyncio.sleep(0)
    assert deliveries == 3 and error in letters[0].failure.history[0]
    await bus.close()


async def test_a_message_that_cannot_be_sent_spares_those_behind_it() -> None:
    bus = MemoryBus()
    await bus.open()
    await bus.declare([_WORK])
    wrong = message("job.one").replace(correlation_id="x" * 300)
    with pytest.raises(ValueError, match="AMQP allows 255"):
        await bus.publisher.publish_many([wrong, message("job.two")])
    assert len(bus.broker.queues["rockbot.work"].ready) == 1
    await bus.close()


async def test_a_handler_that_raises_is_told_with_queue_message_and_place(caplog: pytest.LogCaptureFixture) -> None:
    bus = MemoryBus(clock=FakeClock())
    await bus.open()

    async def handler(envelope: MessageEnvelope) -> Verdict:
        raise KeyError("stock")

    once = WorkSubscription(name="work", patterns=("job.#",), retry=RetryPolicy(max_attempts=1))
    await bus.subscriber.subscribe(once, handler)
    sent = message("job.one")
    await bus.publisher.publish(sent)
    async with asyncio.timeout(60):
        while not await bus.dead_letters.letters("work"):
            await asyncio.sleep(0)
    await bus.close()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "rockbot_messaging.failing"]
    assert f".work failed at message {sent.message_id}, attempt 1: KeyError: 'stock'" in line
    assert "test_memory_chaos.py:" in line
