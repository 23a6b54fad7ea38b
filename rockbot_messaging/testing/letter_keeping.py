"""Cases: letters that are put away, restored, buried by hand; they stay what they were, whatever is done around them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import MappingProxyType

import pytest

from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import BodyTooLarge, LetterNotFound
from rockbot_messaging.letters import DISCARDED, UNROUTED, Discard, Failure, Fate, Keep, Letter, Restore, SendOn
from rockbot_messaging.ports import Door, LetterVisitor, MessageBus
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.settlement import sent_on
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing.harness import Harness, buried, depth, message
from rockbot_messaging.testing.recorder import Recorder
from rockbot_messaging.verdicts import DeadLetter, Retry

__all__ = ["LetterKeepingCases"]

_WORK = WorkSubscription(name="work", patterns=("job.#",), concurrency=1, retry=RetryPolicy(max_attempts=1))


class LetterKeepingCases:
    """The port's `discard`, `bury` and the fates `Discard` and `Restore`."""

    async def test_a_discarded_letter_says_who_put_it_away_and_can_be_restored_as_it_was(
        self, harness: Harness
    ) -> None:
        bus = await harness.connect()
        reaction = Retry(reason="café ∞", error_type="OSError", traceback="line 1\nline 2", handler="the handler")
        await bus.subscriber.subscribe(_WORK, Recorder(lambda _: reaction))
        await bus.publisher.publish_many([message(f"job.{n}", f"{n}".encode(), headers={"n": n}) for n in range(3)])
        before = await buried(bus, "work", 3)
        assert before[1].failure.handler == "the handler"
        away = await bus.dead_letters.discard("work", before[1].id, reason="seen twice, ünlike the others")
        assert away == before[1]
        (lies,) = await bus.dead_letters.letters(DISCARDED)
        assert lies == await bus.dead_letters.letter(DISCARDED, before[1].id[:12])
        assert (lies.id, lies.envelope, lies.failure) == (away.id, away.envelope, away.failure)
        assert lies.queue.endswith(f".{DISCARDED}")
        assert lies.discarded is not None
        assert (lies.discarded.queue, lies.discarded.reason) == (before[1].queue, "seen twice, ünlike the others")
        assert abs(lies.discarded.at_ms - harness.clock.now_ms()) < 60_000
        assert DISCARDED not in {queue.subscription for queue in await bus.dead_letters.queues()}
        await harness.advance(1)
        assert (await bus.dead_letters.walk(DISCARDED, _all(Restore()))).restored == 1
        assert await bus.dead_letters.letters(DISCARDED) == []
        assert await bus.dead_letters.letters("work") == [before[0], before[2], before[1]]

    async def test_a_mended_letter_is_sent_on_and_its_original_is_put_away(self, harness: Harness) -> None:
        bus = await harness.connect()
        await bus.declare([_WORK])
        first, second = await _lay(bus, 2)
        (before, _) = await bus.dead_letters.letters("work")
        mended = sent_on(before, now_ms=harness.clock.now_ms(), body=b"mended")

        async def mend(letters: Sequence[Letter]) -> Sequence[Fate]:
            return [SendOn(mended, "mended by hand") if one.id == first else Keep() for one in letters]

        assert (await bus.dead_letters.walk("work", mend)).sent == 1
        (original,) = await bus.dead_letters.letters(DISCARDED)
        assert (original.envelope, original.failure) == (before.envelope, before.failure)
        assert original.discarded is not None
        assert (original.discarded.queue, original.discarded.reason) == (before.queue, "mended by hand")
        taker = Recorder()
        await bus.subscriber.subscribe(_WORK, taker)
        (received,) = await taker.wait_for(1)
        assert (received.message_id, received.body) == (first, b"mended")
        assert [letter.id for letter in await bus.dead_letters.letters("work")] == [second]

    async def test_an_unrouted_letter_is_restored_to_the_unrouted_ones(self, harness: Harness) -> None:
        bus = await harness.connect()
        await bus.publisher.publish(message("late.topic", b"keep me"), door=Door.PUBLIC)
        (before,) = await buried(bus, UNROUTED, 1)
        assert (await bus.dead_letters.walk(UNROUTED, _all(Discard("nobody")))).discarded == 1
        assert await bus.dead_letters.letters(UNROUTED) == []
        await bus.dead_letters.walk(DISCARDED, _all(Restore()))
        assert await bus.dead_letters.letters(UNROUTED) == [before]
        taker = Recorder()
        await bus.subscriber.subscribe(WorkSubscription(name="late", patterns=("late.#",)), taker)
        await bus.dead_letters.replay(UNROUTED, before.id)
        (received,) = await taker.wait_for(1)
        assert (received.topic, received.body, received.attempt) == ("late.topic", b"keep me", 1)

    async def test_discarding_a_discarded_letter_erases_it_and_replaying_it_is_refused(self, harness: Harness) -> None:
        bus = await harness.connect()
        ids = await _lay(bus, 2)
        for one in ids:
            await bus.dead_letters.discard("work", one, reason="first")
        with pytest.raises(LetterNotFound, match="restore"):
            await bus.dead_letters.replay(DISCARDED, ids[0])
        assert (await bus.dead_letters.discard(DISCARDED, ids[0], reason="for good")).id == ids[0]
        assert [letter.id for letter in await bus.dead_letters.letters(DISCARDED)] == [ids[1]]
        assert await bus.dead_letters.letters("work") == []

    async def test_a_buried_letter_reads_back_as_it_was_given(self, harness: Harness) -> None:
        bus = await harness.connect()
        await bus.declare([_WORK])
        failure = Failure(
            reason="it never worked",
            queue="somewhere.else",
            topic="job.one",
            at_ms=1_712_345_678_901,
            attempt=7,
            error_type="ValueError",
            traceback="Traceback\n  ünlikely\n",
            history=("first", "second"),
            broker="rejected in x",
            handler="tool calls",
        )
        envelope = message(
            "job.one",
            b"\x00\xff bytes",
            timestamp_ms=1_712_345_678_000,
            content_type="application/octet-stream",
            tenant="acme",
            correlation_id="c",
            reply_to="r",
            destination="d",
            causation_id="k",
            conversation_id="v",
            root_task_id="t",
            deadline_ms=1_800_000_000_123,
            attempt=7,
            handbacks=2,
            first_failed_ms=1_712_345_678_111,
            return_address=ReturnAddress("job.answer", "token"),
            user_id=harness.features.user_id,
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            claim="sha256:00;1",
            signature="signed",
            history=("first", "second"),
            headers=MappingProxyType({"colour": "red", "count": 3, "is": True, "none": None}),
        )
        given = [
            (envelope, failure, "half of it was unreadable"),
            (message("job.two", user_id="somebody else"), Failure(reason="", queue="", topic="job.two", at_ms=5), ""),
            (message("job.three", user_id=None), Failure(reason="r", queue="q", topic="job.three", at_ms=6), ""),
        ]
        for queue in ("work", UNROUTED):
            for one, why, problem in given:
                await bus.dead_letters.bury(queue, one, why, problem=problem)
            for _ in range(2):
                letters = await bus.dead_letters.letters(queue)
                read = [(letter.envelope, letter.failure, letter.problem) for letter in letters]
                assert read == given
                # What moves twice is still the same.
                await bus.dead_letters.walk(queue, _all(Discard("away")))
                assert await depth(bus, queue) == 0
                await bus.dead_letters.walk(DISCARDED, _all(Restore()))

    async def test_nothing_is_buried_where_there_is_no_queue_or_no_room(self, harness: Harness) -> None:
        bus = await harness.connect(max_body_bytes=1000)
        await bus.declare([_WORK])
        failure = Failure(reason="r", queue="q", topic="job.one", at_ms=1)
        with pytest.raises(BodyTooLarge):
            await bus.dead_letters.bury("work", message("job.one", b"x" * 1001), failure)
        with pytest.raises(LetterNotFound, match="nowhere"):
            await bus.dead_letters.bury("nowhere", message("job.one"), failure)
        with pytest.raises(LetterNotFound, match="discard"):
            await bus.dead_letters.bury(DISCARDED, message("job.one"), failure)
        assert await depth(bus, "work") == 0

    async def test_a_strangers_message_is_not_ours_after_it_was_sent_on(self, harness: Harness) -> None:
        bus = await harness.connect()
        worker = Recorder([DeadLetter(reason="not yet"), Retry(after=0.0, reason="once more")])
        work = WorkSubscription(name="work", patterns=("job.#",), retry=RetryPolicy(max_attempts=2))
        await bus.subscriber.subscribe(work, worker)
        await harness.publish_foreign("job.one", b"{}", message_id="from-outside")
        (letter,) = await buried(bus, "work", 1)
        assert letter.envelope.user_id is None
        await bus.dead_letters.replay("work", letter.id)
        await worker.wait_for(2)
        async with asyncio.timeout(60):
            while worker.finished < 3:
                await harness.advance(0.5)
        await harness.publish_foreign("late.one", b"{}", message_id="from-outside-too")
        (lost,) = await buried(bus, UNROUTED, 1)
        await bus.subscriber.subscribe(WorkSubscription(name="late", patterns=("late.#",)), worker)
        await bus.dead_letters.replay(UNROUTED, lost.id)
        await worker.wait_finished(4)
        assert [envelope.user_id for envelope in worker.envelopes] == [None] * 4

    async def test_a_letter_says_nothing_of_deliveries_that_ended_unsettled(self, harness: Harness) -> None:
        dying, bus = await harness.connect(), await harness.connect()
        held = Recorder(held=True)
        await dying.subscriber.subscribe(_WORK, held)
        await bus.publisher.publish(message("job.one"))
        await held.wait_for(1)
        await harness.kill(dying)
        worker = Recorder([DeadLetter(reason="no")])
        await bus.subscriber.subscribe(_WORK, worker)
        for _ in range(2):
            (letter,) = await buried(bus, "work", 1)
            assert worker.envelopes[0].redelivered
            assert (letter.envelope.redelivered, letter.envelope.returns) == (False, 0)

    async def test_looking_twenty_five_times_in_every_way_changes_nothing(self, harness: Harness) -> None:
        bus, other = await harness.connect(), await harness.connect()
        ids = await _lay(bus, 100)
        await other.declare([_WORK])
        before = await bus.dead_letters.letters("work", limit=200)
        assert [letter.id for letter in before] == ids
        for look in range(25):
            reader = (bus, other)[look % 2].dead_letters
            start, size = (look * 7) % 100, 1 + look % 5
            assert await reader.letters("work", limit=size, offset=start) == before[start : start + size]
            if look % 3 == 0:
                assert await reader.letter("work", ids[start]) == before[start]
            elif look % 3 == 1:
                assert (await reader.walk("work", _all(Keep()), batch=1 + look)).kept == 100
        assert await depth(other, "work") == 100
        assert await other.dead_letters.letters("work", limit=200) == before


def _all(fate: Fate) -> LetterVisitor:
    async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
        return [fate] * len(letters)

    return decide


async def _lay(bus: MessageBus, count: int) -> list[str]:
    """Bury `count` letters by hand; returns their ids, oldest first."""
    await bus.declare([_WORK])
    sent: list[MessageEnvelope] = [message("job.one", f"body {number}".encode()) for number in range(count)]
    for one in sent:
        await bus.dead_letters.bury("work", one, Failure(reason="no", queue="", topic=one.topic, at_ms=1))
    return [one.message_id for one in sent]
