"""What a process remembers saves reading, and is never what decides: rivals, copies, streams that were erased and begun anew."""

from __future__ import annotations

from typing import Any, cast

import pytest
from machines.counting import Add, Counting
from machines.test_engine import STREAM, arrival

from rockbot.errors import PermanentFailure
from rockbot.machines.engine import SNAPSHOT_EVERY, Engine
from rockbot.machines.remembering import Known, Memory
from rockbot.state.keys import Prefix, key
from rockbot.state.ports import StateStore
from rockbot_messaging.testing import FakeClock

Sums = tuple[int, int]


class Reads:
    """A store that counts how often streams are read."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self.loads = 0

    def __getattr__(self, name: str) -> Any:
        self.loads += name == "load"
        return getattr(self._store, name)


class Counter:
    """One process: an engine with its memory."""

    def __init__(self, store: StateStore, clock: FakeClock) -> None:
        self.reads = Reads(store)
        self.memory: Memory[Sums] = Memory()
        self.engine = Engine(Counting(), cast("StateStore", self.reads), memory=self.memory)
        self.clock = clock

    async def add(self, amount: int, id: str, *, trusted: bool = True) -> tuple[bool, list[Any]]:
        event = Add(amount=amount)
        context = arrival(event, id, self.clock)
        done = await self.engine.step(STREAM, event, context, trusts=lambda _: trusted)
        return done, context.emissions


async def total(store: StateStore) -> tuple[Sums, int]:
    return await Engine(Counting(), store).state(STREAM)


async def test_a_stream_is_read_once_and_then_remembered_also_over_snapshots(
    store: StateStore, clock: FakeClock
) -> None:
    counter = Counter(store, clock)
    steps = 2 * SNAPSHOT_EVERY + 3
    for number in range(steps):
        assert (await counter.add(1, f"m{number}"))[0]
    assert counter.reads.loads == 1
    assert await total(store) == ((steps, steps), steps)
    loaded = await store.load(STREAM)
    assert loaded.snapshot is not None
    assert loaded.snapshot.version == 2 * SNAPSHOT_EVERY


async def test_what_is_remembered_sends_what_reading_would_send(store: StateStore, clock: FakeClock) -> None:
    counter = Counter(store, clock)
    await counter.add(1, "m1")
    _, remembered = await counter.add(2, "m2")
    _, again = await Counter(store, clock).add(2, "m2")
    assert [emission for emission in remembered if emission in again] == again
    assert len(again) == 2


async def test_a_rival_that_wrote_in_between_is_seen(store: StateStore, clock: FakeClock) -> None:
    one, other = Counter(store, clock), Counter(store, clock)
    await one.add(1, "m1")
    await other.add(10, "m2")
    assert (await one.add(100, "m3"))[0]
    assert (await other.add(1000, "m4"))[0]
    assert await total(store) == ((1111, 4), 4)


async def test_a_copy_of_a_handled_message_decides_nothing(store: StateStore, clock: FakeClock) -> None:
    counter = Counter(store, clock)
    _, first = await counter.add(5, "m1")
    done, again = await counter.add(5, "m1")
    assert not done
    assert again == [emission for emission in first if emission in again]
    assert await total(store) == ((5, 1), 1)


async def test_a_refusal_from_memory_is_looked_at_again_in_the_store(store: StateStore, clock: FakeClock) -> None:
    counter = Counter(store, clock)
    await counter.add(5, "m1")
    with pytest.raises(PermanentFailure):
        await counter.add(-1, "m2")
    assert counter.reads.loads == 2
    assert await total(store) == ((5, 1), 1)


async def test_nothing_is_remembered_that_is_not_trusted(store: StateStore, clock: FakeClock) -> None:
    """Erased and begun anew, a stream comes to a version that it had before."""
    counter = Counter(store, clock)
    await counter.add(5, "m1")
    await store.erase(Prefix(f"{STREAM}/"))
    assert (await store.load(STREAM)).version == 0
    await Counter(store, clock).add(7, "m2")
    await counter.add(1, "m3", trusted=False)
    assert await total(store) == ((8, 2), 2)


def test_the_streams_stepped_longest_ago_are_forgotten() -> None:
    memory: Memory[int] = Memory(2)
    keys = [key("default", "count", f"s{number}") for number in range(3)]
    for number, each in enumerate(keys):
        memory.put(each, Known(number, 1, 0))
    assert memory.take(keys[0]) is None
    assert memory.take(keys[2]) == Known(2, 1, 0)
    assert memory.take(keys[2]) is None, "whoever takes it may write on it"
