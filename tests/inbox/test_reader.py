"""One process reads an ordered queue: what was published in order is handled in order, whoever dies."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest
from inbox.office import ORDERS, Fails, Office, Story, connection, order, until

from rockbot.inbox import BlockedKeys
from rockbot.inbox.reader import Reader
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateStore, StateUnavailable
from rockbot_messaging.errors import Closed
from rockbot_messaging.memory import MemoryBroker
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import Ack, DeadLetter

OpenOffice = Any


async def _read(office: Office) -> Reader:
    reader = await office.inboxes.subscribe(ORDERS, office.receive)
    assert isinstance(reader, Reader)
    return reader


async def test_one_process_reads_and_another_takes_over_at_once_when_it_stops(
    open_office: OpenOffice, story: Story
) -> None:
    first, second = await open_office(), await open_office()
    one, two = await _read(first), await _read(second)
    assert (one.reading, two.reading) == (True, False)
    assert one.address == "rockbot.orders"
    await two.look()
    assert not two.reading
    assert await one.stop(timeout=1) == 0
    await two.look()
    assert two.reading
    await second.bus.publisher.publish(order("a1"))
    await until(lambda: story.done == ["a1"])
    await two.stop(timeout=1)


async def test_the_queue_of_a_dead_reader_is_read_elsewhere_when_its_lease_is_over(
    open_office: OpenOffice, story: Story, clock: FakeClock
) -> None:
    first, second = await open_office(), await open_office()
    await _read(first)
    two = await _read(second)
    await first.inboxes.kill()
    await first.bus.kill()  # type: ignore[attr-defined]
    await second.bus.publisher.publish(order("a1"))
    clock.advance(14)
    await two.look()
    assert not two.reading
    clock.advance(1)
    await two.look()
    await until(lambda: story.done == ["a1"])
    await two.stop(timeout=1)


async def test_a_reader_whose_lease_was_taken_stops_reading(open_office: OpenOffice, clock: FakeClock) -> None:
    first, second = await open_office(), await open_office()
    frozen, heir = await _read(first), await _read(second)
    clock.advance(15)
    await heir.look()
    assert heir.reading
    await frozen.look()
    assert not frozen.reading
    await heir.stop(timeout=1)
    await frozen.look()
    assert frozen.reading
    await frozen.stop(timeout=1)


async def test_a_reader_without_its_store_stops_when_its_lease_may_be_somebody_elses(
    open_office: OpenOffice, store: MemoryStateStore, clock: FakeClock, story: Story
) -> None:
    fails = Fails(store)
    reader = await _read(await open_office(store=fails))
    fails.away = True
    for passed, reading in ((14, True), (1, False)):
        clock.advance(passed)
        with pytest.raises(StateUnavailable):
            await reader.look()
        assert reader.reading is reading
    fails.away = False
    await reader.look()
    assert reader.reading
    await reader.stop(timeout=1)


async def test_a_reader_that_lost_the_broker_leaves_the_queue_to_one_that_has_it(
    open_office: OpenOffice, story: Story
) -> None:
    first, second = await open_office(), await open_office()
    one, two = await _read(first), await _read(second)
    one._connected = lambda: False
    await one.look()
    assert not one.reading
    await two.look()
    assert two.reading, "a process without a broker keeps the lease of reading"
    await second.bus.publisher.publish(order("a1"))
    await until(lambda: story.done == ["a1"])
    one._connected = lambda: True
    await one.look()
    assert not one.reading
    await two.stop(timeout=1)
    await one.look()
    assert one.reading
    await one.stop(timeout=1)


async def test_a_reader_that_may_not_consume_leaves_the_queue_to_one_that_may(
    open_office: OpenOffice, store: MemoryStateStore, clock: FakeClock
) -> None:
    first, second = await open_office(), await open_office()
    await first.bus.close()
    with pytest.raises(Closed):
        await _read(first)
    heir = await _read(second)
    assert heir.reading
    await heir.stop(timeout=1)


async def test_a_reader_goes_on_asking_after_an_error_that_nobody_foresaw(
    open_office: OpenOffice, store: MemoryStateStore, caplog: pytest.LogCaptureFixture
) -> None:
    office = await open_office(lease=0.03)
    reader = await _read(office)
    problems = ["a library is broken"]

    def health() -> bool:
        if problems:
            raise RuntimeError(problems.pop())
        asked.set()
        return True

    asked = asyncio.Event()
    reader._connected = health
    async with asyncio.timeout(60):
        await asked.wait()
    assert "a library is broken" in caplog.text
    await reader.stop(timeout=1)


async def test_what_a_closing_process_cannot_store_goes_back_in_its_order(
    open_office: OpenOffice, store: MemoryStateStore, story: Story
) -> None:
    fails = Fails(store)
    first, second = await open_office(store=fails), await open_office()
    one = await _read(first)
    fails.away = True
    for name in ("a1", "a2"):
        await second.bus.publisher.publish(order(name))
    await until(lambda: fails.refused)
    closing = asyncio.ensure_future(first.inboxes.close(timeout=0))
    assert await one.stop(timeout=1.5) == 2
    await closing
    await second.bus.publisher.publish(order("a3"))
    await store.release_lease(await store.acquire_lease(one._name, owner=one._owner, ttl=1))
    two = await _read(second)
    await until(lambda: len(story.done) == 3)
    assert story.done == ["a1", "a2", "a3"]
    await two.stop(timeout=1)


async def test_what_is_published_in_order_is_handled_in_order_while_processes_die(
    any_store: StateStore, broker: MemoryBroker, clock: FakeClock, story: Story
) -> None:
    seed = int(os.environ.get("ROCKBOT_TEST_SEED", "0")) or random.randrange(1, 2**32)
    print(f"seed {seed} (ROCKBOT_TEST_SEED repeats it)")
    chance = random.Random(seed)

    async def slowly(_: Any) -> Any:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        return Ack()

    story.answer = slowly
    publisher = await connection(broker)
    await publisher.declare([ORDERS])
    made = 0

    async def open_() -> tuple[Office, Reader]:
        nonlocal made
        made += 1
        office = Office(f"p{made}", any_store, await connection(broker), story, clock)
        return office, await _read(office)

    living = [await open_() for _ in range(3)]
    names: dict[str, list[str]] = {f"key-{number}": [] for number in range(10)}
    for at in range(400):
        key = f"key-{at % 10}"
        names[key].append(f"{key}:{len(names[key])}")
        await publisher.publish(order(names[key][-1], key))
        if at % 50 == 49:
            dying = next((pair for pair in living if pair[1].reading), living[0])
            living.remove(dying)
            await dying[0].inboxes.kill()
            await dying[0].bus.kill()  # type: ignore[attr-defined]
            await until(lambda: not any(office.inboxes._inboxes["orders"]._tasks for office, _ in living))
            clock.advance(16)
            living.append(await open_())
            for office, reader in living:
                await reader.look()
                await office.inboxes.scan()
    async with asyncio.timeout(60):
        while len(set(story.done)) < 400:
            await until(lambda: not any(office.inboxes._inboxes["orders"]._tasks for office, _ in living))
            clock.advance(16)
            for office, reader in living:
                await reader.look()
                await office.inboxes.scan()
    for office, reader in living:
        await reader.stop(timeout=1)
        await office.inboxes.close(timeout=1)
        await office.bus.close()
    await publisher.close()
    assert {key: list(dict.fromkeys(story.handled[key])) for key in names} == names
    assert not story.overlaps
    print(f"{len(story.envelopes)} begun")


async def test_an_operator_lets_the_key_of_a_discarded_letter_go_on(
    open_office: OpenOffice, story: Story, store: MemoryStateStore
) -> None:
    office = await open_office()
    story.answer = lambda one: DeadLetter(reason="no") if one.message_id in ("a1", "b1") else Ack()
    await office.get("a1", "a2", "b1", "b2")
    desk = BlockedKeys(store)
    await until(lambda: len(story.envelopes) == 2 and not office.inboxes._inboxes["orders"]._tasks)
    assert [held.key for held in await desk.list("orders")] == ["a", "b"]
    assert await desk.discarded("orders", "nobody") is None
    held = await desk.discarded("orders", "b1")
    assert held is not None
    assert (held.key, held.waiting) == ("b", 1)
    assert await office.inboxes.scan() == 1
    await until(lambda: story.done == ["b2"])
    assert [held.key for held in await desk.list("orders")] == ["a"]
