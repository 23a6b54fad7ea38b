"""The outage guard: when everything fails it probes, spends no attempt, holds nothing for long, and ends with a success."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator

import pytest
from messaging.waiting import settle, start, until

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.regulation.outages import Outage
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.settlement import Delay, decide
from rockbot_messaging.subscriptions import OutageGuard, WorkSubscription
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

GUARD = OutageGuard(failures=3, probe=1.0, longest=8.0)
DOWN = Retry(reason="the database is away", error_type="ConnectionError", handler="orders")


def envelope(number: int, **fields: object) -> MessageEnvelope:
    return MessageEnvelope(topic="t", body=b"", message_id=f"m{number}", type="", **fields)  # type: ignore[arg-type]


class Bench:
    """A guarded handler that returns `answer`, or holds while `gate` is closed."""

    def __init__(self, guard: OutageGuard | None = GUARD, **fields: object) -> None:
        self.clock = FakeClock()
        self.measures = Counters()
        self.answer: Verdict | Exception = Ack()
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: list[str] = []
        self.running = 0
        self.regulation = Regulation(clock=self.clock, measures=self.measures)
        given = {"prefetch": 10, "guard": guard, **fields}
        self.work = WorkSubscription(name="orders", patterns=("t",), **given)  # type: ignore[arg-type]
        self.handle = self.regulation.around(self.work, self._handle)
        self._numbers = iter(range(1000, 10_000))

    async def _handle(self, envelope: MessageEnvelope) -> Verdict:
        self.calls.append(envelope.message_id)
        self.running += 1
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def deliver(self, number: int | None = None, **fields: object) -> asyncio.Task[Verdict]:
        return start(self.handle(envelope(next(self._numbers) if number is None else number, **fields)))

    async def fail(self, count: int = GUARD.failures) -> list[Verdict]:
        """Deliver so many messages that fail."""
        self.answer = DOWN
        verdicts = [await self.deliver() for _ in range(count)]
        self.calls.clear()
        return verdicts

    @property
    def out(self) -> bool:
        on = bool(self.regulation.outages())
        assert self.measures.value(Names.OUTAGE, subscription="orders") == on
        return on


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    yield Bench()


# -- begin


async def test_failures_of_different_messages_in_a_row_begin_an_outage_and_cost_an_attempt_each(bench: Bench) -> None:
    assert await bench.fail(2) == [DOWN, DOWN]
    assert not bench.out
    assert await bench.fail(1) == [DOWN]
    assert bench.out


async def test_one_message_that_fails_again_and_again_is_no_outage(bench: Bench) -> None:
    bench.answer = DOWN
    for _ in range(20):
        await bench.deliver(1)
    assert not bench.out


async def test_one_success_between_them_begins_the_count_anew(bench: Bench) -> None:
    await bench.fail(2)
    bench.answer = Ack()
    await bench.deliver()
    await bench.fail(2)
    assert not bench.out


@pytest.mark.parametrize("verdict", [DeadLetter(reason="bad input"), Retry(reason="busy", counted=False)])
async def test_bad_input_and_hand_backs_neither_count_nor_begin_the_count_anew(bench: Bench, verdict: Verdict) -> None:
    await bench.fail(2)
    bench.answer = verdict
    for _ in range(20):
        assert await bench.deliver() == verdict
    assert not bench.out
    await bench.fail(1)
    assert bench.out


async def test_what_a_handler_raises_counts_as_a_failure(bench: Bench) -> None:
    bench.answer = KeyError("no such column")
    verdicts = [await bench.deliver() for _ in range(3)]
    assert bench.out
    first = verdicts[0]
    assert isinstance(first, Retry)
    assert (first.counted, first.error_type, first.error_bases) == (True, "KeyError", ("LookupError",))
    assert "Traceback" in first.traceback


async def test_a_subscription_without_a_guard_only_fails() -> None:
    bench = Bench(guard=None)
    assert await bench.fail(50) == [DOWN] * 50
    assert not bench.out


async def test_begin_and_end_are_told_once_with_what_it_means(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="rockbot_messaging.regulation"):
        await bench.fail()
        bench.clock.advance(1)
        await bench.deliver()
        bench.clock.advance(2)
        bench.answer = Ack()
        await bench.deliver()
    begun, ended = caplog.records
    assert begun.levelname == "WARNING"
    assert "no attempt" in begun.getMessage()
    facts = vars(begun)
    assert (facts["subscription"], facts["handler"]) == ("orders", "orders")
    assert facts["error"] == "ConnectionError: the database is away"
    assert (vars(ended)["seconds"], vars(ended)["probes"]) == (3.0, 2)


# -- during


async def test_probes_come_one_at_a_time_and_ever_more_rarely(bench: Bench) -> None:
    await bench.fail()
    seconds = []
    waited = 0
    for _ in range(40):
        task = bench.deliver()
        await settle()
        if bench.calls:
            seconds.append(waited)
            bench.calls.clear()
            waited = 0
        bench.clock.advance(1)
        waited += 1
        await settle()
        if not task.done():
            task.cancel()
    assert seconds[:6] == [1, 2, 4, 8, 8, 8]


async def test_a_probe_that_fails_costs_no_attempt_and_says_since_when(bench: Bench) -> None:
    await bench.fail()
    bench.clock.advance(1)
    verdict = await bench.deliver()
    assert isinstance(verdict, Retry)
    assert not verdict.counted
    assert verdict.reason == "outage since 2026-01-01T00:00:00Z, probing: the database is away"
    assert (verdict.after, verdict.error_type, verdict.handler) == (2.0, "ConnectionError", "orders")
    assert bench.measures.value(Names.SETTLED, subscription="orders", outcome="handback") == 1


async def test_a_probe_that_raises_costs_no_attempt_either(bench: Bench) -> None:
    await bench.fail()
    bench.clock.advance(1)
    bench.answer = OSError("still away")
    verdict = await bench.deliver()
    assert isinstance(verdict, Retry)
    assert (verdict.counted, verdict.error_type) == (False, "OSError")
    assert bench.out


@pytest.mark.parametrize(
    ("problem", "counted"),
    [
        (ValueError("no amount"), True),
        (KeyError("amount"), True),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), True),
        (RuntimeError("who knows"), False),
        (TimeoutError("slow"), False),
        (ssl.SSLCertVerificationError("expired"), False),  # an OSError and a ValueError
    ],
)
async def test_a_probe_costs_an_attempt_only_when_its_error_speaks_of_the_message(
    bench: Bench, problem: Exception, counted: bool
) -> None:
    await bench.fail()
    bench.clock.advance(1)
    bench.answer = problem
    verdict = await bench.deliver()
    assert isinstance(verdict, Retry)
    assert verdict.counted is counted
    assert bench.out
    assert bench.regulation.outages()[0].probe_in == 2.0, "it did not count as a failed probe"


@pytest.mark.parametrize(("problem", "dead"), [(ValueError("no amount"), True), (ConnectionError("away"), False)])
async def test_bad_messages_alone_on_a_quiet_subscription_are_dead_within_an_hour_and_an_outage_kills_none(
    problem: Exception, dead: bool
) -> None:
    bench = Bench(OutageGuard())
    bench.answer = problem
    policy = RetryPolicy(max_attempts=5)
    waiting = [envelope(number) for number in range(10)]
    buried: list[str] = []
    until_ms = bench.clock.now_ms() + 3_600_000
    while waiting and bench.clock.now_ms() < until_ms:
        now_ms = bench.clock.now_ms()
        ready = [message for message in waiting if message.due_ms is None or message.due_ms <= now_ms]
        waiting = [message for message in waiting if message not in ready]
        tasks = [start(bench.handle(message)) for message in ready]
        await settle()
        while not all(task.done() for task in tasks):
            bench.clock.advance(1)
            await settle()
        for message, task in zip(ready, tasks, strict=True):
            outcome = decide(message, task.result(), policy, queue="q", now_ms=bench.clock.now_ms())
            if isinstance(outcome, Delay):
                waiting.append(outcome.envelope)
            else:
                buried.append(message.message_id)
        bench.clock.advance(1)
    assert len(buried) == (10 if dead else 0)


async def test_while_one_probes_the_others_wait_and_go_on_at_once_after_its_success(bench: Bench) -> None:
    await bench.fail()
    bench.answer = Ack()
    bench.gate.clear()
    waiting = [bench.deliver(number) for number in range(5)]
    await settle()
    assert bench.calls == []
    assert bench.regulation.outages()[0].waiting == 5
    bench.clock.advance(1)
    await settle()
    assert bench.calls == ["m0"]
    bench.clock.advance(10)
    await settle()
    assert bench.calls == ["m0"], "a second probe was begun beside the first"
    bench.gate.set()
    assert await asyncio.gather(*waiting) == [Ack()] * 5
    assert not bench.out


async def test_what_waited_20_seconds_goes_back_uncounted_until_about_the_next_probe(bench: Bench) -> None:
    await bench.fail()
    bench.gate.clear()
    bench.clock.advance(1)
    probe = bench.deliver()
    await settle()
    other = bench.deliver()
    await settle()
    bench.clock.advance(19.9)
    await settle()
    assert not other.done()
    bench.clock.advance(0.1)
    verdict = await other
    assert isinstance(verdict, Retry)
    assert not verdict.counted
    assert verdict.reason == ("outage since 2026-01-01T00:00:00Z, waiting: ConnectionError: the database is away")
    assert verdict.after == 1.0
    assert len(bench.calls) == 1
    bench.gate.set()
    await probe


async def test_everything_prefetched_is_seen_within_ten_minutes_however_few_are_handled_at_once() -> None:
    for fields, each in (({"prefetch": 100, "concurrency": 1}, 6.0), ({"prefetch": 100, "concurrency": 50}, 20.0)):
        bench = Bench(OutageGuard(failures=1, probe=1000, longest=1000), **fields)
        await bench.fail(1)
        waiting = bench.deliver()
        await settle()
        bench.clock.advance(each - 0.1)
        await settle()
        assert not waiting.done()
        bench.clock.advance(0.1)
        assert isinstance(await waiting, Retry)
        # A redelivered one is alone in hand, so all the others wait for it.
        waiting = bench.deliver(redelivered=True)
        await settle()
        bench.clock.advance(6.0)
        assert isinstance(await waiting, Retry)


async def test_a_message_survives_six_days_of_outage_within_its_hand_backs() -> None:
    bench = Bench(OutageGuard(failures=1, probe=1, longest=60))
    await bench.fail(1)
    bench.clock.advance(1)
    message = envelope(1)
    began = bench.clock.now_ms()
    while bench.clock.now_ms() < began + 5.5 * 86_400_000:
        task = start(bench.handle(message))
        await settle()
        while not task.done():
            bench.clock.advance(1)
            await settle()
        outcome = decide(message, task.result(), RetryPolicy(), queue="q", now_ms=bench.clock.now_ms())
        assert isinstance(outcome, Delay), "it was buried"
        message = outcome.envelope
        assert message.due_ms is not None
        bench.clock.advance((message.due_ms - bench.clock.now_ms()) / 1000)
    assert message.attempt == 1


async def test_bad_input_as_a_probe_is_a_dead_letter_and_the_next_one_probes_at_once(bench: Bench) -> None:
    await bench.fail()
    bench.clock.advance(1)
    bench.answer = DeadLetter(reason="bad input")
    assert await bench.deliver() == DeadLetter(reason="bad input")
    assert bench.out
    bench.answer = Ack()
    assert await bench.deliver() == Ack()
    assert not bench.out


async def test_a_hand_back_as_a_probe_says_nothing_and_the_next_probe_waits_as_long(bench: Bench) -> None:
    await bench.fail()
    bench.clock.advance(1)
    bench.answer = Retry(counted=False, reason="throttled")
    assert await bench.deliver() == bench.answer
    bench.answer = Ack()
    task = bench.deliver()
    await settle()
    assert not task.done()
    bench.clock.advance(1)
    assert await task == Ack()


async def test_what_was_begun_before_the_outage_costs_no_attempt_when_it_fails_in_it(bench: Bench) -> None:
    bench.answer = DOWN
    bench.gate.clear()
    tasks = [bench.deliver() for _ in range(6)]
    await settle()
    bench.gate.set()
    verdicts = await asyncio.gather(*tasks)
    assert [isinstance(verdict, Retry) and verdict.counted for verdict in verdicts] == [True] * 3 + [False] * 3


async def test_what_was_begun_before_the_outage_ends_it_when_it_succeeds(bench: Bench) -> None:
    bench.gate.clear()
    early = bench.deliver()
    await settle()
    gate, bench.gate = bench.gate, asyncio.Event()
    bench.gate.set()
    await bench.fail()
    assert bench.out
    waiting = bench.deliver()
    await settle()
    bench.answer = Ack()
    gate.set()
    assert await early == Ack()
    assert not bench.out
    assert await waiting == Ack()


async def test_a_dead_end_in_an_outage_is_told_to_nobody_because_it_is_none() -> None:
    from rockbot_messaging.envelope import ReturnAddress

    told: list[MessageEnvelope] = []

    async def publish(notice: MessageEnvelope) -> None:
        told.append(notice)

    async def fails(envelope: MessageEnvelope) -> Verdict:
        return DOWN

    clock = FakeClock()
    work = WorkSubscription(name="orders", patterns=("t",), guard=GUARD, retry=RetryPolicy(max_attempts=2))
    handle = Regulation(clock=clock, publish=publish, source="me").around(work, fails)
    home = ReturnAddress("home", "token")
    await handle(envelope(1, attempt=2, return_address=home))
    assert len(told) == 1, "the last attempt was not told"
    for number in (2, 3):
        await handle(envelope(number, return_address=home))
    clock.advance(1)
    verdict = await handle(envelope(4, attempt=2, return_address=home))
    assert isinstance(verdict, Retry)
    assert not verdict.counted
    assert len(told) == 1


# -- stopping


async def test_a_waiting_delivery_that_is_cancelled_hands_its_turn_on(bench: Bench) -> None:
    await bench.fail()
    bench.answer = Ack()
    first, second = bench.deliver(1), bench.deliver(2)
    await settle()
    bench.clock.advance(1)  # wakes the first one, which does not get to run
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == Ack()
    assert bench.calls == ["m2"]


async def test_a_probe_that_is_cancelled_lets_the_next_one_probe(bench: Bench) -> None:
    await bench.fail()
    bench.gate.clear()
    bench.clock.advance(1)
    first = bench.deliver(1)
    await until(lambda: bench.running == 1)
    second = bench.deliver(2)
    await settle()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await until(lambda: bench.running == 1)
    bench.answer = Ack()
    bench.gate.set()
    assert await second == Ack()


async def test_draining_hands_back_at_once_what_waits_and_what_comes(bench: Bench) -> None:
    await bench.fail()
    waiting = [bench.deliver() for _ in range(3)]
    await settle()
    bench.regulation.drain()
    verdicts = [*await asyncio.gather(*waiting), await bench.deliver()]
    for verdict in verdicts:
        assert isinstance(verdict, Retry)
        assert (verdict.counted, verdict.after) == (False, 1.0)
    assert not bench.calls


async def test_the_status_says_what_a_person_asks_first(bench: Bench) -> None:
    assert bench.regulation.outages() == []
    since = bench.clock.now_ms()
    await bench.fail()
    bench.clock.advance(0.25)
    (status,) = bench.regulation.outages()
    assert (status.subscription, status.since_ms, status.probes, status.probe_in) == ("orders", since, 0, 0.75)
    assert status.error == "ConnectionError: the database is away"


def test_the_machine_alone_doubles_up_to_the_longest_and_begins_small_again() -> None:
    outage = Outage(OutageGuard(failures=1, probe=3, longest=10))
    now, waits = 100.0, []
    for _ in range(2):
        assert outage.failed("a", "e", now)
        for _ in range(4):
            waits.append(outage.probe_in(now))
            now += outage.probe_in(now)
            assert outage.may_probe(now)
            outage.probe_begins()
            assert not outage.may_probe(now + 1000)
            outage.probe_failed("e", now)
        assert outage.succeeded()
        assert not outage.succeeded()
    assert waits == [3, 6, 10, 10] * 2
