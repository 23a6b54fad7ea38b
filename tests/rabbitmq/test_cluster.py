"""A cluster of three: leaders and members die, consumers are back within seconds and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from nodes.cluster import ClusterMember, RabbitCluster
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import Ack, MessageEnvelope, Verdict, WorkSubscription
from rockbot_messaging.errors import NotConfirmed
from rockbot_messaging.rabbitmq import RabbitBus
from rockbot_messaging.testing.harness import message

pytestmark = [pytest.mark.alone, pytest.mark.rabbitmq, pytest.mark.crash, pytest.mark.timeout(240)]

_WORK = WorkSubscription(name="work", patterns=("job.#",), prefetch=20)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RabbitCluster]:
    cluster = RabbitCluster()
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
async def harness(cluster: RabbitCluster) -> AsyncIterator[RabbitHarness]:
    for member in cluster.members:
        if not member.running:
            await asyncio.to_thread(cluster.restart, member)
    harness = RabbitHarness(cluster.url)
    yield harness
    await harness.close()


async def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class _Consumer:
    """Counts what it handles."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    async def __call__(self, envelope: MessageEnvelope) -> Verdict:
        self.seen.add(envelope.message_id)
        return Ack()


async def _leader(cluster: RabbitCluster, queue: str) -> ClusterMember:
    async with asyncio.timeout(60):
        while True:
            member = await asyncio.to_thread(cluster.leader_of, queue)
            if member is not None and member.running:
                return member


class _Stream:
    """Publishes as fast as it is confirmed, until it is told to stop."""

    def __init__(self, bus: RabbitBus) -> None:
        self.sent: list[str] = []
        self._bus = bus
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._publish())

    async def _publish(self) -> None:
        while not self._stop.is_set():
            batch = [message("job.one") for _ in range(20)]
            stored = False
            while not stored:
                try:
                    await self._bus.publisher.publish_many(batch)
                    stored = True
                except NotConfirmed:
                    pass  # a queue may be without a leader for long: publish again, with the same ids
            self.sent += [one.message_id for one in batch]

    async def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for `condition` while publishing goes on, and tell how long it took."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        await _until(lambda: condition() or self._task.done())
        if self._task.done():
            await self._task
        print(f"{what} after {loop.time() - since:.1f} s")

    async def stop(self) -> set[str]:
        """End it; returns the ids of everything that was confirmed."""
        self._stop.set()
        await self._task
        return set(self.sent)


@pytest.mark.parametrize(
    "whose", ["the leader", "the leader that we are connected to", "the member we are connected to"]
)
async def test_consuming_and_publishing_go_on_when_a_member_dies(
    cluster: RabbitCluster, harness: RabbitHarness, whose: str
) -> None:
    # The member that declares a queue leads it: both connections go to the first one, and the next one publishes to the
    # queue before the others know that its leader is dead.
    bus = await (harness.connect(chance=lambda: 0.0) if "that we" in whose else harness.connect())
    consumer = _Consumer()
    await bus.subscriber.subscribe(_WORK, consumer)
    stream = _Stream(bus)
    await stream.until("the first hundred", lambda: len(consumer.seen) > 100)
    if "the leader" in whose:
        victim = await _leader(cluster, f"{harness.namespace}.work")
        assert f":{victim.port}," in f"{bus.health().detail}," or "that we" not in whose
    else:
        victim = next(member for member in cluster.members if f":{member.port}" in bus.health().detail)
    await asyncio.to_thread(victim.kill)
    before = len(consumer.seen)
    await stream.until(f"{whose} dead, 200 more handled", lambda: len(consumer.seen) > before + 200)
    await stream.until("everything connected", lambda: bus.health().connected and not bus.health().idle_seconds)
    sent = await stream.stop()
    await _until(lambda: sent <= consumer.seen)


async def test_a_restart_of_every_member_one_after_another_loses_nothing(
    cluster: RabbitCluster, harness: RabbitHarness
) -> None:
    bus = await harness.connect()
    consumer = _Consumer()
    await bus.subscriber.subscribe(_WORK, consumer)
    stream = _Stream(bus)
    for member in cluster.members:
        await asyncio.to_thread(member.kill)
        await asyncio.to_thread(cluster.restart, member)
        seen = len(consumer.seen)
        await stream.until(
            f"{member.name} is back, 100 more handled",
            lambda seen=seen: len(consumer.seen) > seen + 100 and not bus.health().idle_seconds,  # type: ignore[misc]
        )
    sent = await stream.stop()
    await _until(lambda: sent <= consumer.seen)
