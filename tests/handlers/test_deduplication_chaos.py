"""Payments delivered many times over, while consumers are killed and connections are cut: every account is right."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from handlers.till import TILL, Receipt, Till, balance, payment
from rabbitmq.harness import RabbitHarness

from rockbot.machines.recovery import OutboxRecovery
from rockbot.outgoing import Outgoing
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.clock import Clock, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BrokerUnreachable, NotConfirmed
from rockbot_messaging.measures import Counters
from rockbot_messaging.memory import MemoryBroker, MemoryBus, SqliteBusStorage
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import Ack, Verdict

_ACCOUNTS = [f"account-{number}" for number in range(20)]
_RECEIPTS = WorkSubscription(name="receipts", patterns=("receipt.*",))


class Story:
    """Payments with their copies, the receipts that came, and the consumers that may be killed."""

    def __init__(self, count: int, *, copies: int, deaths: int) -> None:
        seed = int(os.environ.get("ROCKBOT_TEST_SEED", "0")) or random.randrange(1, 2**32)
        print(f"seed {seed} (ROCKBOT_TEST_SEED repeats it)")
        self.random = random.Random(seed)
        accounts = {f"payment-{number}": self.random.choice(_ACCOUNTS) for number in range(count)}
        self.expected = Counter(accounts.values())
        self.ids = set(accounts)
        sent = [payment(name, account) for name, account in accounts.items()]
        self.sent = sent + [self.random.choice(sent) for _ in range(copies)]
        self.random.shuffle(self.sent)
        self.deaths = sorted(self.random.sample(range(20, count), deaths))
        self.deliveries = 0
        self.receipts: dict[str, str] = {}
        self.received = 0
        self.repairs: list[asyncio.Task[None]] = []

    def dies_now(self) -> bool:
        self.deliveries += 1
        if self.deaths and self.deliveries >= self.deaths[0]:
            self.deaths.pop(0)
            return True
        return False

    async def receipt(self, envelope: MessageEnvelope) -> Verdict:
        Receipt.model_validate_json(envelope.body)
        self.received += 1
        assert envelope.causation_id is not None
        assert self.receipts.setdefault(envelope.causation_id, envelope.message_id) == envelope.message_id
        return Ack()

    def till(self, store: SqliteStateStore, bus: MessageBus, clock: Clock, measures: Counters) -> Till:
        return Till(store, bus.publisher, clock=clock, measures=measures)


async def _balances(store: SqliteStateStore) -> Counter[str]:
    return Counter({account: await balance(store, account) for account in _ACCOUNTS})


async def test_accounts_are_right_over_the_embedded_bus_with_kills(tmp_path: Path) -> None:
    story = Story(400, copies=200, deaths=12)
    clock, counters = FakeClock(), Counters()
    store = SqliteStateStore(tmp_path / "state.db", clock, busy_seconds=30)
    await store.open()
    broker = MemoryBroker(clock=clock, storage=SqliteBusStorage(tmp_path / "bus.db"))
    consumers: list[MemoryBus] = []

    async def consume() -> None:
        bus = MemoryBus(broker=broker)
        await bus.open()
        handle = story.till(store, bus, clock, counters).handler

        async def mortal(envelope: MessageEnvelope) -> Verdict:
            if story.dies_now():
                story.repairs.append(asyncio.create_task(replace()))
            return await handle(envelope)

        consumers.append(bus)
        await bus.subscriber.subscribe(TILL, mortal)

    async def replace() -> None:
        await consumers.pop(story.random.randrange(len(consumers))).kill()
        await consume()

    publisher = MemoryBus(broker=broker)
    await publisher.open()
    await publisher.declare([WorkSubscription(name="idle", patterns=("breath",))])
    await publisher.subscribe(_RECEIPTS, story.receipt)
    for _ in range(3):
        await consume()
    recovery = OutboxRecovery(store, Outgoing(publisher, clock=clock, source="test"), owner="me", idle=30)
    async with asyncio.timeout(60):
        for at in range(0, len(story.sent), 25):
            await publisher.publish_many(story.sent[at : at + 25])
        while set(story.receipts) != story.ids or broker.queues["rockbot.till"].ready:
            clock.advance(1)
            await publisher.publish(payment("breath").replace(topic="breath"))
            await recovery.run_once()
        await asyncio.gather(*story.repairs)
        for bus in consumers:
            await bus.close()
        clock.advance(3600)
        await recovery.run_once()
    await publisher.close()
    print(f"{story.deliveries} deliveries, {story.received} receipts, {dict(counters.snapshot())}")
    assert await _balances(store) == story.expected
    assert not story.deaths
    clock.advance(3600)
    assert list(await store.claim_outbox(owner="me", idle=30, claim=60, limit=9)) == [], "something was never sent"
    await store.close()


@pytest.mark.rabbitmq
@pytest.mark.timeout(300)
async def test_accounts_are_right_over_rabbitmq_with_cut_connections(harness: RabbitHarness, tmp_path: Path) -> None:
    story = Story(200, copies=100, deaths=6)
    counters = Counters()
    stores = [SqliteStateStore(tmp_path / "state.db", SystemClock(), busy_seconds=30) for _ in range(2)]
    consumers: list[Any] = []
    publisher = await harness.connect()
    await publisher.subscriber.subscribe(_RECEIPTS, story.receipt)
    for store in stores:
        await store.open()
        bus = await harness.connect()
        handle = story.till(store, bus, SystemClock(), counters).handler

        async def cut_off(envelope: MessageEnvelope, handle: Any = handle) -> Verdict:
            if story.dies_now():
                story.random.choice(consumers).cut()
            verdict: Verdict = await handle(envelope)
            return verdict

        consumers.append(bus)
        await bus.subscriber.subscribe(TILL, cut_off)
    recovery = OutboxRecovery(
        stores[0], Outgoing(publisher.publisher, clock=SystemClock(), source="test"), owner="me", idle=2
    )
    # Who meets another payment of the same account waits 1, 5 and then each time 30 s.
    async with asyncio.timeout(240):
        at = 0
        while at < len(story.sent):
            try:
                await publisher.publisher.publish_many(story.sent[at : at + 25])
            except (NotConfirmed, BrokerUnreachable):
                continue
            at += 25
        while set(story.receipts) != story.ids:
            await recovery.run_once()
            await asyncio.sleep(0.05)
    for bus in (publisher, *consumers):
        await bus.close()
    print(f"{story.deliveries} deliveries, {story.received} receipts, {dict(counters.snapshot())}")
    assert await _balances(stores[0]) == story.expected
    assert not story.deaths
    for store in stores:
        await store.close()
