"""The bucket that replicas share: together they never take more than it gives."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rockbot.state.keys import key
from rockbot.state.memory import MemoryStateStore
from rockbot_handlers.llm.bucket import SharedBucket
from rockbot_messaging.testing import FakeClock

KEY = key("host", "backend", "x", "tokens")


def buckets(store: MemoryStateStore, clock: FakeClock, count: int, per_minute: float = 60) -> list[SharedBucket]:
    return [SharedBucket(store, KEY, per_minute, clock=clock) for _ in range(count)]


async def test_two_processes_share_what_there_is_and_are_told_how_long_to_wait(
    store: MemoryStateStore, clock: FakeClock
) -> None:
    one, two = buckets(store, clock, 2)
    assert await one.take(40) == 0
    assert await two.take(20) == 0
    assert await two.take(10) == pytest.approx(10)
    clock.advance(10)
    assert await two.take(10) == 0
    assert await one.take(1) == pytest.approx(1)


async def test_a_process_draws_in_chunks_and_most_calls_write_nothing(
    store: MemoryStateStore, clock: FakeClock
) -> None:
    (bucket,) = buckets(store, clock, 1, per_minute=1000)
    for _ in range(100):
        assert await bucket.take(1) == 0
    entry = await store.get(KEY)
    assert entry is not None
    assert entry.version <= 2


async def test_what_a_process_drew_and_did_not_use_is_lost_after_a_while(
    store: MemoryStateStore, clock: FakeClock
) -> None:
    one, two = buckets(store, clock, 2, per_minute=1000)
    await one.take(1)
    await two.take(950)
    clock.advance(0.001)
    assert await one.take(49) == 0
    clock.advance(11)
    assert await one.take(400) > 0


async def test_a_call_larger_than_the_bucket_takes_all_of_it(store: MemoryStateStore, clock: FakeClock) -> None:
    (bucket,) = buckets(store, clock, 1)
    assert await bucket.take(1000) == 0
    assert await bucket.take(1) > 0
    clock.advance(60)
    assert await bucket.take(1000) == 0


async def test_what_was_used_beyond_the_guess_is_made_up_for(store: MemoryStateStore, clock: FakeClock) -> None:
    (bucket,) = buckets(store, clock, 1)
    await bucket.take(10)
    bucket.correct(-140)
    assert await bucket.take(1) > 0
    clock.advance(60)
    assert await bucket.take(1) == 0, "a full bucket pays a debt that is larger than itself, and stands below zero"
    assert await bucket.take(20) > 60
    bucket.correct(1000)
    assert await bucket.take(20) == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0.1, 30), st.sampled_from([0.0, 0.5, 3.0, 12.0])),
        min_size=1,
        max_size=40,
    )
)
def test_over_any_stretch_no_more_is_taken_than_the_bucket_held_and_was_refilled(
    asks: list[tuple[int, float, float]],
) -> None:
    async def play() -> None:
        clock = FakeClock()
        store = MemoryStateStore(clock)
        await store.open()
        shared = buckets(store, clock, 3)
        taken: list[tuple[float, float]] = []
        for who, amount, wait in asks:
            clock.advance(wait)
            if await shared[who].take(amount) == 0:
                taken.append((clock.monotonic(), amount))
        for at, _ in taken:
            # What a process still holds from before may come on top: three chunks of a twentieth, for ten seconds.
            within = sum(amount for when, amount in taken if at <= when)
            assert within <= 60 + (clock.monotonic() - at) + 3 * 3 + 1e-6

    asyncio.run(play())
