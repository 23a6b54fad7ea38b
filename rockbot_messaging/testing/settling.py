"""Cases: retries, their delays and counters, and the way into a dead-letter queue."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial

import pytest

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.retries import Fixed, Immediate, NoRetry, RetryPolicy, RetryRule
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing.harness import Harness, buried, depth, message, pass_time_until
from rockbot_messaging.testing.recorder import Recorder
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

__all__ = ["SettlingCases"]

_SOON = RetryPolicy(max_attempts=3, delays=(1,))


class SettlingCases:
    """A verdict is carried out as `rockbot_messaging.settlement` decides."""

    async def test_retries_are_counted_never_early_and_in_the_end_a_dead_letter(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = Recorder(
            [ValueError("the first\nfailure"), Retry(reason="the second"), KeyError("the third")], clock=harness.clock
        )
        bystander = Recorder()
        work = WorkSubscription(name="work", patterns=("job",), retry=_SOON)
        consumption = await bus.subscriber.subscribe(work, taker)
        await bus.subscriber.subscribe(WorkSubscription(name="bystander", patterns=("job",)), bystander)
        sent = message("job", b"payload", headers={"colour": "red"}, correlation_id="7")
        await bus.publisher.publish(sent)
        await pass_time_until(harness, lambda: taker.finished >= 3)
        assert [one.attempt for one in taker.envelopes] == [1, 2, 3]
        assert {one.message_id for one in taker.envelopes} == {sent.message_id}
        assert {one.topic for one in taker.envelopes} == {"job"}
        assert {one.body for one in taker.envelopes} == {b"payload"}
        assert [dict(one.headers) for one in taker.envelopes] == [{"colour": "red"}] * 3
        assert [one.correlation_id for one in taker.envelopes] == ["7"] * 3
        assert [len(one.history) for one in taker.envelopes] == [0, 1, 2]
        instants = [seen.at_ms for seen in taker.seen]
        assert instants[1] - instants[0] >= 1000
        assert instants[2] - instants[1] >= 1000
        (letter,) = await buried(bus, "work", 1)
        failure = letter.failure
        assert (letter.id, letter.envelope.topic, letter.envelope.body) == (sent.message_id, "job", b"payload")
        assert (failure.topic, failure.queue, failure.attempt) == ("job", consumption.address, 3)
        assert "3 attempts" in failure.reason
        assert "the third" in failure.reason
        assert "KeyError" in failure.error_type
        assert "KeyError: 'the third'" in failure.traceback
        assert len(failure.history) == 3
        assert "ValueError: the first failure" in failure.history[0]
        assert "the second" in failure.history[1]
        assert harness.clock.now_ms() - 60_000 <= failure.at_ms <= harness.clock.now_ms()
        assert len(bystander.seen) == 1

    async def test_an_explicit_delay_is_kept_and_handing_back_costs_no_attempt(self, harness: Harness) -> None:
        bus = await harness.connect()
        reactions = {
            "counted": [Retry(after=2.5, reason="please wait")],
            "handed": [Retry(counted=False, reason="throttled"), Retry(counted=False, after=1)],
        }
        takers = {name: Recorder(plan, clock=harness.clock) for name, plan in reactions.items()}
        for name, taker in takers.items():
            work = WorkSubscription(name=name, patterns=(name,), retry=RetryPolicy(max_attempts=2, delays=(1, 30)))
            await bus.subscriber.subscribe(work, taker)
            await bus.publisher.publish(message(name))
        await pass_time_until(harness, lambda: takers["counted"].finished >= 2 and takers["handed"].finished >= 3)
        counted, handed = takers["counted"], takers["handed"]
        assert [one.attempt for one in counted.envelopes] == [1, 2]
        assert [one.handbacks for one in counted.envelopes] == [0, 0]
        assert counted.seen[1].at_ms - counted.seen[0].at_ms >= 2500
        assert [one.attempt for one in handed.envelopes] == [1, 1, 1]
        assert [one.handbacks for one in handed.envelopes] == [0, 1, 2]
        assert [one.history for one in handed.envelopes] == [(), (), ()]
        assert handed.seen[1].at_ms - handed.seen[0].at_ms >= 1000
        assert handed.seen[2].at_ms - handed.seen[1].at_ms >= 1000

    async def test_an_immediate_retry_goes_through_the_queue_and_is_counted(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker, bystander = Recorder(lambda _: ValueError("again")), Recorder()
        policy = RetryPolicy(max_attempts=4, backoff=Immediate())
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), retry=policy), taker)
        await bus.subscriber.subscribe(WorkSubscription(name="bystander", patterns=("job",)), bystander)
        sent = message("job", b"payload", headers={"colour": "red"})
        await bus.publisher.publish(sent)
        await taker.wait_finished(4)
        (letter,) = await buried(bus, "work", 1)
        assert letter.failure.reason.startswith("gave up after 4 attempts: again")
        assert [(one.attempt, one.topic, one.redelivered) for one in taker.envelopes] == [
            (number, "job", False) for number in (1, 2, 3, 4)
        ]
        assert {one.message_id for one in taker.envelopes} == {sent.message_id}
        assert dict(taker.envelopes[3].headers) == {"colour": "red"}
        assert len({one.first_failed_ms for one in taker.envelopes[1:]}) == 1
        assert len(bystander.seen) == 1

    async def test_the_class_of_an_error_decides_how_it_is_retried(self, harness: Harness) -> None:
        bus = await harness.connect()
        errors = {"key": KeyError("no such key"), "index": IndexError("too far"), "value": ValueError("bad")}
        taker = Recorder(lambda envelope: errors[envelope.body.decode()])
        policy = RetryPolicy(
            max_attempts=3,
            backoff=Immediate(),
            rules=(
                RetryRule(errors=("KeyError",), backoff=NoRetry()),
                RetryRule(errors=("LookupError",), max_attempts=2),
            ),
        )
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), retry=policy), taker)
        await bus.publisher.publish_many([message("job", name.encode()) for name in errors])
        letters = await buried(bus, "work", 3)
        reasons = {letter.envelope.body.decode(): letter.failure.reason for letter in letters}
        assert {letter.envelope.body.decode(): letter.failure.attempt for letter in letters} == {
            "key": 1, "index": 2, "value": 3,
        }  # fmt: skip
        assert reasons["key"].startswith("the policy retries no KeyError")
        assert reasons["index"].startswith("gave up after 2 attempts")

    async def test_a_failure_beyond_the_age_of_the_policy_is_the_last(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = Recorder(lambda _: ValueError("still"), clock=harness.clock)
        policy = RetryPolicy(max_attempts=50, backoff=Fixed(1), max_age=1.5)
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), retry=policy), taker)
        await bus.publisher.publish(message("job"))
        async with asyncio.timeout(60):
            while not await depth(bus, "work"):
                await harness.advance(0.25)
        (letter,) = await bus.dead_letters.letters("work")
        assert len(taker.seen) == letter.failure.attempt
        assert letter.failure.attempt in (2, 3)
        first_failed_ms = taker.seen[1].envelope.first_failed_ms
        assert first_failed_ms is not None and letter.failure.at_ms - first_failed_ms >= 1500
        if letter.failure.attempt == 3:
            assert taker.seen[1].at_ms - first_failed_ms < 1500
        assert "after the first failure" in letter.failure.reason

    async def test_a_hand_back_is_never_a_hot_loop_and_ends(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = Recorder(lambda _: Retry(counted=False, after=0, reason="busy"), clock=harness.clock)
        policy = RetryPolicy(backoff=Immediate(), max_handbacks=2)
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), retry=policy), taker)
        await bus.publisher.publish(message("job"))
        await pass_time_until(harness, lambda: taker.finished >= 3)
        (letter,) = await buried(bus, "work", 1)
        assert letter.failure.reason == "handed back 2 times without being handled: busy"
        assert letter.failure.attempt == 1
        instants = [seen.at_ms for seen in taker.seen]
        assert all(later - earlier >= 1000 for earlier, later in itertools.pairwise(instants))
        assert len(instants) == 3

    async def test_a_handler_that_ends_as_cancelled_by_itself_has_failed(self, harness: Harness) -> None:
        bus = await harness.connect()
        seen: list[MessageEnvelope] = []

        async def stumbles(envelope: MessageEnvelope) -> Verdict:
            seen.append(envelope)
            inner = asyncio.get_running_loop().create_future()
            inner.cancel()
            await inner
            return Ack()

        policy = RetryPolicy(max_attempts=3, backoff=Immediate())
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), retry=policy), stumbles)
        await bus.publisher.publish(message("job"))
        (letter,) = await buried(bus, "work", 1)
        assert letter.failure.error_type == "CancelledError"
        assert [(one.attempt, one.redelivered) for one in seen] == [(1, False), (2, False), (3, False)]
        assert bus.health().idle_seconds == {}

    async def test_headers_over_the_limit_of_a_receiver_are_a_dead_letter_without_the_largest(
        self, harness: Harness
    ) -> None:
        bus = await harness.connect()
        taker = Recorder()
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",)), taker)
        await harness.publish_foreign(
            "job.wide", b"payload", headers={"huge": "h" * 60_000, "large": "l" * 30_000, "small": "s"}
        )
        marker = message("job.marker")
        await bus.publisher.publish(marker)
        (letter,) = await buried(bus, "work", 1)
        assert letter.envelope.body == b"payload"
        headers = dict(letter.envelope.headers)
        assert headers["large"] == "l" * 30_000
        assert headers["small"] == "s"
        assert str(headers["huge"]).startswith("hhhh")
        assert str(headers["huge"]).endswith("... [60000 bytes, shortened]")
        assert letter.failure.error_type == "HeadersTooLarge"
        assert "takes at most 65536; shortened or left out: huge (" in letter.failure.reason
        again = await bus.dead_letters.replay("work", letter.id)
        await taker.wait_for(2)
        assert taker.ids == [marker.message_id, again.message_id]

    async def test_a_message_with_a_due_instant_is_not_handled_before_it(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = Recorder(clock=harness.clock)
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), taker)
        for tries in range(1, 100):
            due_ms = harness.clock.now_ms() + 1400
            delayed, immediate = message("job", due_ms=due_ms), message("job")
            await bus.publisher.publish(delayed)
            await bus.publisher.publish(immediate)
            in_time = harness.clock.now_ms() < due_ms
            await pass_time_until(harness, partial(_finished, taker, 2 * tries))
            (late,) = [seen for seen in taker.seen if seen.envelope.message_id == delayed.message_id]
            assert late.at_ms >= due_ms
            assert (late.envelope.attempt, late.envelope.handbacks) == (1, 0)
            if in_time:
                assert taker.ids[-2:] == [immediate.message_id, delayed.message_id]
                return
        raise AssertionError("this machine always stands still between two messages")

    async def test_a_dead_letter_says_why_where_and_when(self, harness: Harness) -> None:
        bus = await harness.connect()
        verdict = DeadLetter(reason="the body is no JSON: käse", error_type="ValueError", traceback="line 1\nline 2 ü")
        taker = Recorder([verdict])
        consumption = await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",)), taker)
        before = harness.clock.now_ms()
        sent = message("job.poison", b"\xff\xfe{not json", headers={"colour": "red"}, conversation_id="c-1")
        await bus.publisher.publish(sent)
        (letter,) = await buried(bus, "work", 1)
        assert letter.id == sent.message_id
        assert letter.problem == ""
        assert letter.envelope.body == sent.body
        assert letter.envelope.topic == "job.poison"
        assert letter.envelope.conversation_id == "c-1"
        assert dict(letter.envelope.headers) == {"colour": "red"}
        failure = letter.failure
        assert (failure.reason, failure.error_type) == (verdict.reason, "ValueError")
        assert failure.traceback == "line 1\nline 2 ü"
        assert (failure.queue, failure.topic, failure.attempt) == (consumption.address, "job.poison", 1)
        assert before <= failure.at_ms <= harness.clock.now_ms()

    async def test_a_failure_of_any_length_is_kept(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = Recorder(
            [DeadLetter(reason="r" * 50_000, error_type="E" * 5_000, traceback="head\n" + "ü" * 100_000 + "\ntail")]
        )
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), taker)
        await bus.publisher.publish(message("job", b"payload"))
        (letter,) = await buried(bus, "work", 1)
        assert letter.envelope.body == b"payload"
        assert letter.failure.reason.startswith("r" * 500)
        assert letter.failure.traceback.endswith("\ntail")
        assert len(letter.failure.traceback.encode()) <= 32 * 1024

    async def test_properties_that_cannot_be_read_are_a_dead_letter_at_once(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = Recorder()
        consumption = await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",)), taker)
        await harness.publish_garbage("job.garbage")
        marker = message("job.marker")
        await bus.publisher.publish(marker)
        (letter,) = await buried(bus, "work", 1)
        assert letter.problem
        assert letter.failure.reason
        assert (letter.failure.topic, letter.failure.queue) == ("job.garbage", consumption.address)
        assert (await bus.dead_letters.letter("work", letter.id)).id == letter.id
        await taker.wait_for(1)
        assert taker.ids == [marker.message_id]

    async def test_a_body_over_the_limit_of_its_receiver_is_a_dead_letter(self, harness: Harness) -> None:
        sender, receiver = await harness.connect(), await harness.connect(max_body_bytes=1000)
        taker = Recorder()
        await receiver.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), taker)
        large, fits = message("job", b"x" * 1001), message("job", b"x" * 1000)
        await sender.publisher.publish(large)
        await sender.publisher.publish(fits)
        (letter,) = await buried(receiver, "work", 1)
        assert letter.id == large.message_id
        assert "1001" in letter.failure.reason
        assert letter.envelope.body == large.body
        await taker.wait_for(1)
        assert taker.ids == [fits.message_id]

    @pytest.mark.parametrize("count", [25])
    async def test_each_subscription_keeps_its_own_dead_letters(self, harness: Harness, count: int) -> None:
        bus = await harness.connect()
        fails = Recorder(lambda envelope: DeadLetter(reason=f"refused {envelope.message_id}"))
        works, unrelated = Recorder(), Recorder()
        await bus.subscriber.subscribe(WorkSubscription(name="fails", patterns=("job.#",)), fails)
        await bus.subscriber.subscribe(WorkSubscription(name="works", patterns=("job.#",)), works)
        await bus.subscriber.subscribe(WorkSubscription(name="unrelated", patterns=("#",)), unrelated)
        sent = [message("job.one") for _ in range(count)]
        await bus.publisher.publish_many(sent)
        letters = await buried(bus, "fails", count)
        await works.wait_finished(count)
        await unrelated.wait_finished(count)
        assert sorted(letter.id for letter in letters) == sorted(one.message_id for one in sent)
        assert {letter.failure.reason for letter in letters} == {f"refused {one.message_id}" for one in sent}
        assert await depth(bus, "works") == 0
        assert await depth(bus, "unrelated") == 0
        assert len(works.seen) == count


def _finished(taker: Recorder, count: int) -> bool:
    return taker.finished >= count
