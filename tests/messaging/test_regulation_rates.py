"""The rate limit: so many at once, then one after another, in their order, and nobody else waits."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from messaging.waiting import settle, start

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.regulation.rates import TokenBucket, most_in_hand
from rockbot_messaging.subscriptions import Lane, Rate, WorkSubscription
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import Ack, Retry, Verdict


class Bench:
    def __init__(self, rate: Rate | None, **fields: object) -> None:
        self.clock = FakeClock()
        self.measures = Counters()
        self.begun: list[tuple[str, float]] = []
        self.regulation = Regulation(clock=self.clock, measures=self.measures)
        self.fields = fields
        self.handle = self.around("work", rate)

    def around(self, name: str, rate: Rate | None) -> object:
        work = WorkSubscription(name=name, patterns=("t",), rate=rate, **self.fields)  # type: ignore[arg-type]
        return self.regulation.around(work, self._handle)

    async def _handle(self, envelope: MessageEnvelope) -> Verdict:
        self.begun.append((envelope.message_id, self.clock.monotonic()))
        return Ack()

    def deliver(self, name: str | int, handle: object = None) -> asyncio.Task[Verdict]:
        envelope = MessageEnvelope(topic="t", body=b"", message_id=str(name), type="")
        return start((handle or self.handle)(envelope))  # type: ignore[operator]

    @property
    def instants(self) -> list[float]:
        return [at for _, at in self.begun]


async def test_a_burst_goes_at_once_and_the_rest_at_the_rate_in_the_order_of_their_coming() -> None:
    bench = Bench(Rate(per_second=2, burst=3))
    tasks = [bench.deliver(number) for number in range(7)]
    await settle()
    assert len(bench.begun) == 3
    for _ in range(8):
        bench.clock.advance(0.25)
        await settle()
    assert bench.begun == [(str(number), at) for number, at in enumerate([0, 0, 0, 0.5, 1.0, 1.5, 2.0])]
    assert await asyncio.gather(*tasks) == [Ack()] * 7
    assert bench.measures.value(Names.RATE_LIMITED, subscription="work") == 4


async def test_without_a_rate_nothing_waits() -> None:
    bench = Bench(None)
    for number in range(100):
        assert await bench.deliver(number) == Ack()
    assert bench.measures.value(Names.RATE_LIMITED, subscription="work") == 0


async def test_tokens_come_back_up_to_the_burst_and_no_further() -> None:
    bench = Bench(Rate(per_second=1, burst=2))
    for number in range(2):
        await bench.deliver(number)
    bench.clock.advance(3600)
    tasks = [bench.deliver(number) for number in range(5)]
    await settle()
    assert bench.instants == [0, 0, 3600, 3600]
    for _ in range(3):
        bench.clock.advance(1)
        await settle()
    assert bench.instants[4:] == [3601, 3602, 3603]
    await asyncio.gather(*tasks)


async def test_who_waits_is_not_overtaken_by_who_comes_when_a_token_is_there() -> None:
    bench = Bench(Rate(per_second=1))
    tasks = [bench.deliver("a"), bench.deliver("b")]
    await settle()
    bench.clock.advance(1)
    tasks.append(bench.deliver("c"))
    await settle()
    assert [name for name, _ in bench.begun] == ["a", "b"]
    bench.clock.advance(1)
    await asyncio.gather(*tasks)


async def test_another_subscription_does_not_wait_even_in_the_same_lane() -> None:
    bench = Bench(Rate(per_second=1), lane=Lane(group="calls", rank=0, slots=1))
    other = bench.around("other", None)
    await bench.deliver("a")
    waiting = [bench.deliver(number) for number in range(5)]
    await settle()
    for number in range(20):
        assert await bench.deliver(number, other) == Ack()
    for task in waiting:
        assert not task.done()
        task.cancel()


async def test_one_that_is_cancelled_while_it_waits_takes_no_turn() -> None:
    bench = Bench(Rate(per_second=1))
    await bench.deliver("a")
    tasks = [bench.deliver(name) for name in "bcd"]
    await settle()
    tasks[0].cancel()
    await settle()
    bench.clock.advance(1)
    tasks[1].cancel()  # it has been given its turn and did not get to run
    await settle()
    assert [name for name, _ in bench.begun] == ["a", "d"]
    assert await tasks[2] == Ack()


async def test_what_would_wait_longer_than_ten_minutes_is_handed_back_until_its_turn() -> None:
    bench = Bench(Rate(per_second=0.01))
    await bench.deliver("a")
    tasks = [bench.deliver(number) for number in range(7)]
    await settle()
    assert [task.done() for task in tasks] == [False] * 6 + [True]
    verdict = tasks[-1].result()
    assert isinstance(verdict, Retry)
    assert (verdict.counted, verdict.after) == (False, 700)
    for task in tasks:
        task.cancel()


async def test_draining_hands_back_what_waits() -> None:
    bench = Bench(Rate(per_second=0.1))
    await bench.deliver("a")
    waiting = bench.deliver("b")
    await settle()
    bench.regulation.drain()
    for verdict in (await waiting, await bench.deliver("c")):
        assert isinstance(verdict, Retry)
        assert (verdict.counted, verdict.after) == (False, 1.0)


@pytest.mark.parametrize(
    ("rate", "most"), [(Rate(per_second=100), 60_001), (Rate(per_second=1, burst=5), 605), (Rate(per_second=0.001), 1)]
)
def test_the_largest_sensible_prefetch_follows_from_the_rate(rate: Rate, most: int) -> None:
    assert most_in_hand(rate) == most


@given(
    per_second=st.floats(0.01, 1000),
    burst=st.integers(1, 50),
    pauses=st.lists(st.integers(0, 5000), min_size=1, max_size=200),
)
def test_no_window_of_time_ever_sees_more_than_burst_and_rate_allow(
    per_second: float, burst: int, pauses: list[int]
) -> None:
    bucket = TokenBucket(Rate(per_second=per_second, burst=burst), 0.0)
    now, taken = 0.0, []
    for pause in pauses:
        now += pause / 1000
        if bucket.take(now):
            taken.append(now)
        else:
            wait = bucket.wait(now)
            assert wait > 0
            now += wait
            assert bucket.take(now), "a token was promised for that instant"
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + (taken[last] - taken[first]) * per_second + 1e-6
