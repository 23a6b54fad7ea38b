"""Random accidents: whatever dies and whenever, each message ends acknowledged or dead, once, or still lies in its queue."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import final

from hypothesis import given, settings
from hypothesis import strategies as st

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.memory import BusStorage, MemoryBroker, MemoryBus, SqliteBusStorage
from rockbot_messaging.memory.storage import Place, Row
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.testing.harness import depth, message
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

_POLICY = RetryPolicy(max_attempts=4, delays=(1, 5))
_ACTIONS = ["publish", "publish", "consume", "kill", "stop", "advance", "breathe", "breathe"]
_NEEDS = ["ack", "fail once", "fail twice", "fail always", "hand back once", "refuse", "break"]


class _World:
    """A broker, whoever is connected to it, and what they saw."""

    def __init__(self, storage: BusStorage | None) -> None:
        self.clock = FakeClock()
        self.broker = MemoryBroker(clock=self.clock, storage=storage)
        self.consumers: list[MemoryBus] = []
        self.acknowledged: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self.published: list[str] = []

    async def connected(self) -> MemoryBus:
        bus = MemoryBus(broker=self.broker)
        await bus.open()
        return bus

    async def consume(self, prefetch: int) -> None:
        bus = await self.connected()
        work = WorkSubscription(name="work", patterns=("job",), prefetch=prefetch, concurrency=3, retry=_POLICY)
        await bus.subscriber.subscribe(work, self.handle)
        self.consumers.append(bus)

    async def handle(self, envelope: MessageEnvelope) -> Verdict:
        need = envelope.body.decode()
        for _ in range(envelope.attempt):
            await asyncio.sleep(0)
        failures = {"fail once": 1, "fail twice": 2, "fail always": 99}.get(need, 0)
        if need == "break":
            raise ValueError("broken")
        if need == "refuse":
            return DeadLetter(reason="refused")
        if need == "hand back once" and envelope.handbacks == 0:
            return Retry(counted=False, after=3)
        if envelope.attempt <= failures:
            return Retry(reason="failing")
        self.acknowledged[envelope.message_id] += 1
        return Ack()

    async def act(self, action: str, need: str, number: int, publisher: MemoryBus) -> None:
        if action == "publish":
            one = message("job", need.encode())
            await publisher.publisher.publish(one)
            self.published.append(one.message_id)
        elif action == "consume" and len(self.consumers) < 3:
            await self.consume(prefetch=number % 5 + 1)
        elif action in ("kill", "stop") and self.consumers:
            bus = self.consumers.pop(number % len(self.consumers))
            await (bus.kill() if action == "kill" else bus.close())
        elif action == "advance":
            self.clock.advance(number)
        else:
            for _ in range(number % 5):
                await asyncio.sleep(0)

    async def finish(self, publisher: MemoryBus) -> None:
        await self.consume(prefetch=10)
        async with asyncio.timeout(60):
            while sum(self.acknowledged.values()) + await depth(publisher, "work") < len(self.published):
                self.clock.advance(1)
                await asyncio.sleep(0)


async def _live(storage: BusStorage | None, script: list[tuple[str, str, int]]) -> None:
    world = _World(storage)
    publisher = await world.connected()
    await publisher.declare([WorkSubscription(name="work", patterns=("job",))])
    for action, need, number in script:
        await world.act(action, need, number, publisher)
    await world.finish(publisher)
    letters = await publisher.dead_letters.letters("work", limit=1000)
    dead = Counter(letter.id for letter in letters)
    assert world.acknowledged + dead == Counter(world.published)
    for letter in letters:
        assert letter.failure.attempt == (1 if letter.envelope.body == b"refuse" else _POLICY.max_attempts)
        assert letter.envelope.body in (b"fail always", b"break", b"refuse")
    for bus in (*world.consumers, publisher):
        await bus.close()


@final
class _SlowDisk:
    """Implements `BusStorage` for one life: what it delays is due by the time that whoever settled it hears of it."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    async def open(self) -> list[Row]:
        return []

    def apply(self, puts: Sequence[Row], removals: Sequence[int]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()

        def write() -> None:
            if any(row.place is Place.DELAYED for row in puts):
                written.add_done_callback(lambda _: self._clock.advance(1))
            written.set_result(None)

        loop.call_soon(write)
        return written

    async def close(self) -> None:
        pass


async def test_a_retry_that_is_due_before_its_writing_is_noticed_costs_no_slot() -> None:
    clock = FakeClock()
    bus = MemoryBus(broker=MemoryBroker(clock=clock, storage=_SlowDisk(clock)))
    await bus.open()
    both = asyncio.Barrier(2)
    done, met = asyncio.Event(), asyncio.Event()

    async def handle(envelope: MessageEnvelope) -> Verdict:
        if envelope.attempt == 1:
            return Retry(after=1)
        if envelope.body == b"alone":
            done.set()
        else:
            await both.wait()
            met.set()
        return Ack()

    work = WorkSubscription(name="work", patterns=("job",), prefetch=4, concurrency=2, retry=_POLICY)
    await bus.subscriber.subscribe(work, handle)
    async with asyncio.timeout(60):
        await bus.publisher.publish(message("job", b"alone"))  # there is room for its return while it is settled
        await done.wait()
        await bus.publisher.publish_many([message("job", b"both"), message("job", b"both")])
        await met.wait()
    await bus.close()


_SCRIPTS = st.lists(st.tuples(st.sampled_from(_ACTIONS), st.sampled_from(_NEEDS), st.integers(0, 9)), max_size=40)


@given(_SCRIPTS)
@settings(max_examples=150)
def test_no_accident_loses_or_doubles_a_message(script: list[tuple[str, str, int]]) -> None:
    asyncio.run(_live(None, script))


@given(_SCRIPTS)
@settings(max_examples=15)
def test_no_accident_loses_or_doubles_a_message_on_a_file(script: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_live(SqliteBusStorage(Path(folder) / "state.db"), script))
