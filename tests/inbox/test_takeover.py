"""Processes that die, stall, stop or race: a key is worked by one at a time, in order, and nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inbox.office import ORDERS, Fails, Office, Story, connection, order, ordered, until
from rabbitmq.harness import RabbitHarness

from rockbot.inbox.line import LineId
from rockbot.inbox.shelf import Grant, Lost, Shelf
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateStore
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BrokerUnreachable, NotConfirmed
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

OpenOffice = Any


def _busy(office: Office) -> bool:
    inbox = office.inboxes._inboxes["orders"]
    return bool(inbox._tasks or inbox._ready)


async def _idle(offices: Sequence[Office]) -> None:
    """Living processes prolong their leases in real time; so the driven clock only jumps while they have none."""
    await until(lambda: not any(_busy(office) for office in offices))


class Gate:
    """Holds handlers until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, envelope: MessageEnvelope) -> Verdict:
        await self.open.wait()
        return Ack()


async def test_the_keys_of_a_dead_process_go_on_elsewhere_when_its_lease_is_over(
    open_office: OpenOffice, story: Story, clock: FakeClock
) -> None:
    dead, heir = await open_office(), await open_office()
    story.answer = Gate()
    await dead.get("a1", "a2", "a3")
    await until(lambda: story.begun["a"] == ["a1"])
    await dead.inboxes.kill()
    story.answer = None
    clock.advance(14.9)
    assert await heir.inboxes.scan() == 0
    clock.advance(0.1)
    assert await heir.inboxes.scan() == 1
    await until(lambda: story.handled["a"] == ["a1", "a2", "a3"])
    assert [(one.message_id, one.redelivered) for one in story.envelopes] == [
        ("a1", False),
        ("a1", True),
        ("a2", False),
        ("a3", False),
    ]


async def test_an_arrival_at_the_heir_does_not_overtake_what_waits(
    open_office: OpenOffice, story: Story, clock: FakeClock
) -> None:
    dead, heir = await open_office(), await open_office()
    story.answer = Gate()
    await dead.get("a1", "a2")
    await dead.inboxes.kill()
    story.answer = None
    await heir.get("a3")
    clock.advance(15)
    await heir.get("a4")
    await until(lambda: story.handled["a"] == ["a1", "a2", "a3", "a4"])


async def test_what_a_process_does_after_its_lease_is_over_counts_for_nothing(
    open_office: OpenOffice, story: Story, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stalled, heir = await open_office(), await open_office()
    gate = Gate()
    story.answer = gate
    await stalled.get("a1", "a2")
    await until(lambda: story.begun["a"] == ["a1"])
    clock.advance(15)  # the process was frozen: nothing was prolonged

    def second(envelope: MessageEnvelope) -> Verdict:
        return DeadLetter(reason="the heir's verdict") if envelope.message_id == "a1" else Ack()

    story.answer = second
    await heir.inboxes.scan()
    await until(lambda: not _busy(heir))
    gate.open.set()
    await until(lambda: not _busy(stalled))
    assert "an inbox was taken over" in caplog.text
    assert [held.message_id for held in await heir.inboxes.blocked("orders")] == ["a1"]
    assert story.begun["a"] == ["a1", "a1"]


async def test_every_write_of_an_older_grant_is_refused(any_store: StateStore, clock: FakeClock) -> None:
    old, new = (Shelf(any_store, owner=name, lease=10) for name in ("old", "new"))
    line = LineId("orders", "default", "a")
    for name in ("a1", "a2"):
        await old.arrive(line, order(name), most=10)
    first = await old.take(line)
    assert isinstance(first, Grant)
    assert not isinstance(await new.take(line), Grant)
    clock.advance(10)
    second = await new.take(line)
    assert isinstance(second, Grant)
    assert second.token > first.token
    before = [entry async for entry in new.lines("orders")]
    for late in (
        old.done(first, 0, "a1", remember=60),
        old.skip(first, 0, "a1"),
        old.postpone(first, 0, order("a1"), 5),
        old.block(first, 0, "a1", "late"),
        old.prolong(first),
        old.release(first),
        old.head(first),
    ):
        with pytest.raises(Lost, match="worked by new"):
            await late
    assert [entry async for entry in new.lines("orders")] == before
    assert await new.done(second, 0, "a1", remember=60)
    assert not await new.done(second, 1, "a2", remember=60)
    assert [entry async for entry in new.lines("orders")] == []


async def test_a_token_grows_also_when_a_key_was_empty_in_between(any_store: StateStore, clock: FakeClock) -> None:
    shelf = Shelf(any_store, owner="one", lease=10)
    line = LineId("orders", "default", "a")
    tokens = []
    for name in ("a1", "a2", "a3"):
        await shelf.arrive(line, order(name), most=10)
        grant = await shelf.take(line)
        assert isinstance(grant, Grant)
        tokens.append(grant.token)
        await shelf.done(grant, 0, name, remember=60)
    assert tokens == sorted(set(tokens))


async def test_racing_arrivals_from_many_processes_are_all_there(any_store: StateStore) -> None:
    shelves = [Shelf(any_store, owner=f"p{number}", lease=10) for number in range(4)]
    line = LineId("orders", "default", "a")
    names = [f"a{number}" for number in range(40)] * 2
    await asyncio.gather(*(shelves[at % 4].arrive(line, order(name), most=100) for at, name in enumerate(names)))
    ((_, found),) = [entry async for entry in shelves[0].lines("orders")]
    assert found.waiting == 40


async def test_a_write_that_was_stored_although_it_seemed_to_fail_is_not_made_twice(
    any_store: StateStore, clock: FakeClock
) -> None:
    shelf = Shelf(any_store, owner="one", lease=10)
    line = LineId("orders", "default", "a")
    for name in ("a1", "a2", "a3"):
        await shelf.arrive(line, order(name), most=10)
    grant = await shelf.take(line)
    assert isinstance(grant, Grant)
    for _ in range(2):
        assert await shelf.done(grant, 0, "a1", remember=60)
    found = await shelf.head(grant)
    assert found is not None
    assert (found[0], found[1].message_id) == (1, "a2")


async def test_a_process_that_closes_gives_its_keys_back_at_once(
    open_office: OpenOffice, story: Story, clock: FakeClock
) -> None:
    leaving, heir = await open_office(), await open_office()
    story.answer = Gate()
    await leaving.get("a1", "a2", "b1")
    await until(lambda: len(story.envelopes) == 2)
    assert await leaving.inboxes.close(timeout=0) == 2
    story.answer = None
    assert await heir.inboxes.scan() == 2
    await until(lambda: len(story.done) == 3)
    assert story.handled["a"] == ["a1", "a2"]


async def test_closing_lets_what_is_under_way_finish(open_office: OpenOffice, story: Story) -> None:
    leaving, heir = await open_office(), await open_office()
    gate = Gate()
    story.answer = gate
    await leaving.get("a1", "a2")
    await until(lambda: story.begun["a"] == ["a1"])
    closing = asyncio.ensure_future(leaving.inboxes.close(timeout=10))
    await asyncio.sleep(0)
    gate.open.set()
    assert await closing == 0
    assert story.begun["a"] == ["a1"]
    await heir.inboxes.scan()
    await until(lambda: story.handled["a"] == ["a1", "a2"])
    assert not any(one.redelivered for one in story.envelopes)


async def test_a_handler_that_takes_longer_than_the_lease_keeps_its_key(
    open_office: OpenOffice, story: Story, store: MemoryStateStore, clock: FakeClock
) -> None:
    prolonged = asyncio.Event()
    watched = Fails(store)
    one, other = await open_office(store=watched, lease=0.3), await open_office(lease=0.3)

    async def slow(envelope: MessageEnvelope) -> Verdict:
        watched.before_write = prolonged.set  # while the handler runs, nothing else is written
        for _ in range(5):
            prolonged.clear()
            await prolonged.wait()
            clock.advance(0.25)
            assert await other.inboxes.scan() == 0
        return Ack()

    story.answer = slow
    await one.get("a1")
    await until(lambda: story.done)
    assert story.begun["a"] == ["a1"]


async def test_a_message_that_ends_process_after_process_becomes_a_dead_letter(
    open_office: OpenOffice, story: Story, clock: FakeClock
) -> None:
    story.answer = Gate()
    deaths = 0
    while True:
        office = await open_office()
        await (office.get("a1", "a2") if not deaths else office.inboxes.scan())
        await until(lambda deaths=deaths, office=office: len(story.envelopes) > deaths or not _busy(office))
        if len(story.envelopes) == deaths:
            break
        assert story.envelopes[-1].returns == deaths
        await office.inboxes.kill()
        deaths += 1
        clock.advance(15)
    assert deaths == 21
    (letter,) = await office.bus.dead_letters.letters("orders")
    assert (letter.id, "21 processes ended" in letter.failure.reason) == ("a1", True)


async def test_a_dead_letter_queue_that_is_away_is_waited_for_without_handling_again(
    open_office: OpenOffice, story: Story, store: MemoryStateStore, broker: MemoryBroker, clock: FakeClock, caplog: Any
) -> None:
    office = await open_office()
    story.answer = lambda _: DeadLetter(reason="no")
    gone = await connection(broker)
    await gone.close()
    lonely = Office("lonely", store, gone, story, clock, lease=0.1)
    await lonely.get("a1", "a2")
    await until(lambda: "waits until its dead letter" in caplog.text)
    lonely.inboxes._bus = office.bus
    await until(lambda: not _busy(lonely))
    assert story.begun["a"] == ["a1"]
    assert [letter.id for letter in await office.bus.dead_letters.letters("orders")] == ["a1"]
    assert [held.waiting for held in await office.inboxes.blocked("orders")] == [1]


async def test_a_letter_that_no_queue_takes_stays_in_its_inbox_and_holds_up_its_key(
    open_office: OpenOffice, story: Story, store: MemoryStateStore, broker: MemoryBroker, clock: FakeClock, caplog: Any
) -> None:
    story.answer = lambda one: DeadLetter(reason="no") if one.message_id == "a1" else Ack()
    narrow = MemoryBus(broker=broker, max_body_bytes=1)
    await narrow.open()
    await narrow.declare([ORDERS])
    office = Office("narrow", store, narrow, story, clock)
    await office.get("a1", "a2")
    await until(lambda: "cannot be stored" in caplog.text and not _busy(office))
    line = LineId("orders", "default", "a")
    assert await store.get(line.entry(0)) is not None
    assert await office.inboxes.release("orders", "a")
    await until(lambda: story.done == ["a2"] and not _busy(office))
    assert await store.get(line.entry(0)) is None
    await office.inboxes.close(timeout=1)
    await narrow.close()


# -- many at once


def _check(story: Story, arrived: dict[str, list[str]]) -> None:
    """Per key: begun in the order of arrival, going back never further than to the one that was not settled."""
    for key, names in arrived.items():
        places = [names.index(name) for name in story.begun[key]]
        assert all(later >= now for now, later in itertools.pairwise(places)), (key, story.begun[key])
        assert list(dict.fromkeys(story.handled[key])) == names


_SCRIPTS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(0, 2), st.sampled_from("ab")),
        st.tuples(st.just("copy"), st.integers(0, 2), st.sampled_from("ab")),
        st.tuples(st.just("kill"), st.integers(0, 2), st.just("")),
        st.tuples(st.just("advance"), st.sampled_from([1, 5, 16]), st.just("")),
        st.tuples(st.just("scan"), st.integers(0, 2), st.just("")),
        st.tuples(st.just("run"), st.integers(1, 30), st.just("")),
    ),
    max_size=40,
)


@settings(max_examples=120)
@given(_SCRIPTS, st.integers(0, 2**32))
def test_any_interleaving_keeps_the_order_of_each_key_and_settles_each_message_once(
    script: list[tuple[str, int, str]], seed: int
) -> None:
    async def play() -> None:
        clock = FakeClock()
        store = MemoryStateStore(clock)
        await store.open()
        bus = await connection(MemoryBroker(clock=clock))
        await bus.declare([ORDERS])
        story, chance = Story(), random.Random(seed)
        made = 0

        async def answer(envelope: MessageEnvelope) -> Verdict:
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            return Retry(after=chance.choice([0, 1, 7]), counted=False) if chance.random() < 0.25 else Ack()

        story.answer = answer

        def open_() -> Office:
            nonlocal made
            made += 1
            return Office(f"p{made}", store, bus, story, clock)

        offices = [open_() for _ in range(3)]
        arrived: dict[str, list[str]] = {"a": [], "b": []}
        for what, number, key in script:
            if what == "arrive":
                arrived[key].append(f"{key}{len(arrived[key])}")
                assert await offices[number].get(arrived[key][-1]) == [Ack()]
            elif what == "copy" and arrived[key]:
                assert await offices[number].get(chance.choice(arrived[key]), redelivered=True) == [Ack()]
            elif what == "kill":
                await offices[number].inboxes.kill()
                offices[number] = open_()
            elif what == "advance":
                await _idle(offices)
                clock.advance(number)
            elif what == "scan":
                await offices[number].inboxes.scan()
            else:
                for _ in range(number):
                    await asyncio.sleep(0)
        expected = sum(map(len, arrived.values()))
        async with asyncio.timeout(60):
            while len(set(story.done)) < expected:
                await _idle(offices)
                clock.advance(16)
                await offices[0].inboxes.scan()
        for office in offices:
            await office.inboxes.close(timeout=5)
        _check(story, arrived)
        assert not story.overlaps
        await bus.close()

    asyncio.run(play())


async def test_three_processes_with_random_deaths_keep_every_order(
    any_store: StateStore, broker: MemoryBroker, story: Story, clock: FakeClock
) -> None:
    seed = int(os.environ.get("ROCKBOT_TEST_SEED", "0")) or random.randrange(1, 2**32)
    print(f"seed {seed} (ROCKBOT_TEST_SEED repeats it)")
    chance = random.Random(seed)
    keys = [f"key-{number}" for number in range(50)]
    arrived: dict[str, list[str]] = {key: [] for key in keys}
    dead: set[str] = set()
    bus = await connection(broker)
    subscription = ordered("skip", retry=RetryPolicy(max_attempts=2, delays=(1,)))
    await bus.declare([subscription])

    async def answer(envelope: MessageEnvelope) -> Verdict:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if envelope.message_id in dead:
            return DeadLetter(reason="refused")
        return Retry(after=chance.choice([0, 1, 5])) if envelope.attempt == 1 and chance.random() < 0.05 else Ack()

    story.answer = answer
    made = 0

    def open_() -> Office:
        nonlocal made
        made += 1
        return Office(f"p{made}", any_store, bus, story, clock, subscription=subscription)

    offices = [open_() for _ in range(3)]
    deaths = 0
    for at in range(600):
        key = chance.choice(keys)
        name = f"{key}:{len(arrived[key])}"
        arrived[key].append(name)
        if chance.random() < 0.03:
            dead.add(name)
        assert await chance.choice(offices).get(name, key=key) == [Ack()]
        if chance.random() < 0.05:
            assert await chance.choice(offices).get(name, key=key, redelivered=True) == [Ack()]
        if at % 40 == 39:
            victim = chance.randrange(3)
            await offices[victim].inboxes.kill()
            offices[victim] = open_()
            deaths += 1
            await _idle(offices)
            clock.advance(chance.choice([1, 16]))
            await chance.choice(offices).inboxes.scan()
    living = {key: [name for name in names if name not in dead] for key, names in arrived.items()}
    async with asyncio.timeout(60):
        while len(set(story.done)) < sum(map(len, living.values())):
            await _idle(offices)
            clock.advance(5)
            for office in offices:
                await office.inboxes.scan()
        await _idle(offices)
    letters = {letter.id for letter in await bus.dead_letters.letters("orders", limit=1000)}
    for office in offices:
        await office.inboxes.close(timeout=5)
    print(f"{deaths} deaths, {len(story.envelopes)} begun, {len(letters)} letters")
    assert not story.overlaps
    assert letters >= dead
    for key, names in arrived.items():
        places = [names.index(name) for name in story.begun[key]]
        assert places == sorted(places), key
        assert [name for name in dict.fromkeys(story.handled[key]) if name not in dead] == living[key]
    await bus.close()


@pytest.mark.rabbitmq
async def test_orders_are_kept_over_rabbitmq_with_cut_connections_and_a_dead_reader(
    harness: RabbitHarness, story: Story, tmp_path: Any
) -> None:
    clock = SystemClock()
    stores = [SqliteStateStore(tmp_path / "state.db", clock, busy_seconds=30) for _ in range(2)]
    offices = []
    for name, store in zip("xy", stores, strict=True):
        await store.open()
        bus = await harness.connect()
        await bus.declare([ORDERS])
        offices.append(Office(name, store, bus, story, clock, namespace=harness.namespace, lease=1.5, scan_every=0.2))
        await offices[-1].consume()
    reader, helper = offices
    publisher = await harness.connect()

    illegible = {"key-3:5"}  # however often it is begun: its process may die before the letter is stored

    def answer(one: MessageEnvelope) -> Verdict:
        return DeadLetter(reason="no") if one.message_id in illegible else Ack()

    story.answer = answer
    names: dict[str, list[str]] = {}
    for number in range(240):
        key = f"key-{number % 12}"
        names.setdefault(key, []).append(f"{key}:{len(names.get(key, []))}")
        async with asyncio.timeout(60):
            while True:
                try:
                    await publisher.publisher.publish(order(names[key][-1], key))
                    break
                except (NotConfirmed, BrokerUnreachable):
                    continue
        if number in (60, 180):
            (reader if number == 60 else helper).bus.cut()  # type: ignore[attr-defined]
        if number == 120:
            await reader.kill()
    await until(lambda: len(set(story.done)) == 240 - len(names["key-3"]) + 5)
    async with asyncio.timeout(60):
        while not await helper.bus.dead_letters.letters("orders"):
            await asyncio.sleep(0.05)
        while not await helper.inboxes.blocked("orders"):
            await asyncio.sleep(0.05)
    illegible.clear()
    await helper.bus.dead_letters.replay("orders", "key-3:5")
    await until(lambda: len(set(story.done)) == 240)
    await helper.close()
    await publisher.close()
    for key, expected in names.items():
        assert list(dict.fromkeys(story.handled[key])) == expected
        assert [story.begun[key].index(name) for name in expected] == sorted(
            story.begun[key].index(name) for name in expected
        )
    assert not story.overlaps
    for store in stores:
        await store.close()
