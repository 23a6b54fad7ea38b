"""Cases: reading dead letters, sending them on, throwing them away."""

from __future__ import annotations

import asyncio

import pytest

from rockbot_messaging.errors import BodyTooLarge, LetterNotFound, Unroutable
from rockbot_messaging.letters import UNROUTED
from rockbot_messaging.ports import Door, MessageBus
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing.harness import Harness, buried, depth, message
from rockbot_messaging.testing.recorder import Recorder
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry

__all__ = ["LetterCases"]

_ONCE = RetryPolicy(max_attempts=1, delays=(1,))


class LetterCases:
    """The port `DeadLetters`."""

    async def test_reading_changes_neither_order_nor_content(self, harness: Harness) -> None:
        bus, reader = await harness.connect(), await harness.connect()
        work = WorkSubscription(name="work", patterns=("job",), concurrency=1)
        await bus.subscriber.subscribe(work, Recorder(lambda one: DeadLetter(reason=f"no {one.message_id}")))
        await reader.declare([work])
        sent = [message("job", f"body {number}".encode()) for number in range(5)]
        await bus.publisher.publish_many(sent)
        first = await buried(bus, "work", 5)
        assert [letter.id for letter in first] == [one.message_id for one in sent]
        assert [letter.envelope.body for letter in first] == [one.body for one in sent]
        for _ in range(25):
            assert await reader.dead_letters.letters("work") == first
            assert await reader.dead_letters.letter("work", sent[3].message_id) == first[3]
        ours, theirs = await asyncio.gather(reader.dead_letters.letters("work"), reader.dead_letters.letters("work"))
        assert ours == theirs == first
        await buried(reader, "work", 5)

    async def test_letters_are_read_page_by_page(self, harness: Harness) -> None:
        bus = await harness.connect()
        sent = await _bury(bus, 7)
        pages = [await bus.dead_letters.letters("work", limit=3, offset=offset) for offset in (0, 3, 6, 9)]
        assert [[letter.id for letter in page] for page in pages] == [sent[:3], sent[3:6], sent[6:], []]

    async def test_queues_are_listed_with_their_depths_the_unrouted_one_last(self, harness: Harness) -> None:
        bus = await harness.connect()
        await bus.declare([WorkSubscription(name="calm", patterns=("calm",))])
        await _bury(bus, 2)
        with pytest.raises(Unroutable):
            await bus.publisher.publish(message("nobody.home"))
        await buried(bus, UNROUTED, 1)
        queues = await bus.dead_letters.queues()
        assert {queue.subscription: queue.depth for queue in queues} == {"calm": 0, "work": 2, UNROUTED: 1}
        assert queues[-1].subscription == UNROUTED
        by_name = {queue.subscription: queue.name for queue in queues}
        assert by_name["work"].endswith("work.dlq")
        assert await bus.dead_letters.letters(by_name["work"]) == await bus.dead_letters.letters("work")
        assert {letter.queue for letter in await bus.dead_letters.letters("work")} == {by_name["work"]}

    async def test_a_letter_is_found_by_the_beginning_of_its_id(self, harness: Harness) -> None:
        bus = await harness.connect()
        ids = ["aaaaaaaa-1111", "aaaaaaaa-2222", "bbbbbbbb-1111"]
        await _bury(bus, 3, ids=ids)
        assert (await bus.dead_letters.letter("work", "bbbbbb")).id == ids[2]
        assert (await bus.dead_letters.letter("work", ids[0])).id == ids[0]
        with pytest.raises(LetterNotFound):
            await bus.dead_letters.letter("work", "bbbbb")
        with pytest.raises(LetterNotFound, match="aaaaaaaa-2222"):
            await bus.dead_letters.letter("work", "aaaaaaaa")
        with pytest.raises(LetterNotFound, match="cccccccc"):
            await bus.dead_letters.replay("work", "cccccccc")
        with pytest.raises(LetterNotFound, match="nowhere"):
            await bus.dead_letters.letters("nowhere")
        assert await depth(bus, "work") == 3

    async def test_a_replayed_letters_deadline_has_moved_by_the_time_it_lay_dead(self, harness: Harness) -> None:
        bus = await harness.connect()
        recorder = Recorder([DeadLetter(reason="not yet")])
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",)), recorder)
        await bus.publisher.publish(message("job.one", deadline_ms=4_000_000_000_000))
        (letter,) = await buried(bus, "work", 1)
        await harness.advance(1)
        await bus.dead_letters.replay("work", letter.id)
        await recorder.wait_finished(2)
        deadline = recorder.envelopes[1].deadline_ms
        assert deadline is not None
        assert deadline >= 4_000_000_000_900

    async def test_a_mended_letter_goes_to_the_queue_it_came_from_and_to_no_other(self, harness: Harness) -> None:
        bus = await harness.connect()
        strict = Recorder(lambda one: Ack() if one.body == b"mended" else Retry(reason="cannot read this"))
        other = Recorder(lambda _: DeadLetter(reason="mine stays"))
        await bus.subscriber.subscribe(WorkSubscription(name="strict", patterns=("job.#",), retry=_ONCE), strict)
        await bus.subscriber.subscribe(WorkSubscription(name="other", patterns=("job.#",)), other)
        sent = message("job.one", b"broken", headers={"colour": "red"}, correlation_id="7", attempt=4, handbacks=3)
        await bus.publisher.publish(sent)
        (letter,) = await buried(bus, "strict", 1)
        await buried(bus, "other", 1)
        replayed = await bus.dead_letters.replay("strict", letter.id, body=b"mended")
        await strict.wait_finished(2)
        again = strict.envelopes[1]
        for one in (replayed, again):
            assert (one.message_id, one.topic, one.body) == (sent.message_id, "job.one", b"mended")
            assert (one.attempt, one.handbacks, one.due_ms, one.history) == (1, 0, None, ())
            assert (one.correlation_id, dict(one.headers)) == ("7", {"colour": "red"})
        assert len(other.seen) == 1
        assert await depth(bus, "strict") == 0
        assert await depth(bus, "other") == 1

    async def test_a_mended_body_over_the_limit_is_refused_and_the_letter_stays(self, harness: Harness) -> None:
        bus = await harness.connect(max_body_bytes=1000)
        (sent,) = await _bury(bus, 1)
        with pytest.raises(BodyTooLarge):
            await bus.dead_letters.replay("work", sent, body=b"x" * 1001)
        assert [letter.id for letter in await buried(bus, "work", 1)] == [sent]

    async def test_a_letter_that_fails_again_is_a_letter_again(self, harness: Harness) -> None:
        bus = await harness.connect()
        (sent,) = await _bury(bus, 1)
        await bus.dead_letters.replay("work", sent)
        (letter,) = await buried(bus, "work", 1)
        assert letter.id == sent
        assert letter.failure.attempt == 1

    async def test_an_unrouted_letter_is_published_again_once_somebody_receives_it(self, harness: Harness) -> None:
        bus = await harness.connect()
        lost = message("late.topic", b"keep me")
        await bus.publisher.publish(lost, door=Door.PUBLIC)
        (letter,) = await buried(bus, UNROUTED, 1)
        with pytest.raises(Unroutable):
            await bus.dead_letters.replay(UNROUTED, letter.id)
        assert [one.id for one in await bus.dead_letters.letters(UNROUTED)] == [letter.id]
        takers = [Recorder(), Recorder()]
        for name, taker in zip(("one", "two"), takers, strict=True):
            await bus.subscriber.subscribe(WorkSubscription(name=name, patterns=("late.#",)), taker)
        await bus.dead_letters.replay(UNROUTED, letter.id)
        for taker in takers:
            (received,) = await taker.wait_for(1)
            assert (received.message_id, received.body, received.attempt) == (lost.message_id, b"keep me", 1)
        assert await depth(bus, UNROUTED) == 0

    async def test_a_discarded_letter_is_gone_and_its_neighbours_stay_in_order(self, harness: Harness) -> None:
        bus = await harness.connect()
        sent = await _bury(bus, 4)
        gone = await bus.dead_letters.discard("work", sent[1], reason="a duplicate")
        assert gone.id == sent[1]
        remaining = await buried(bus, "work", 3)
        assert [letter.id for letter in remaining] == [sent[0], sent[2], sent[3]]
        with pytest.raises(LetterNotFound):
            await bus.dead_letters.discard("work", sent[1], reason="again")

    async def test_letters_survive_the_process_that_buried_them(self, harness: Harness) -> None:
        bus, reader = await harness.connect(), await harness.connect()
        await _bury(bus, 2)
        kept = await bus.dead_letters.letters("work")
        await harness.kill(bus)
        await reader.declare([WorkSubscription(name="work", patterns=("job",))])
        assert await reader.dead_letters.letters("work") == kept


async def _bury(bus: MessageBus, count: int, *, ids: list[str] | None = None) -> list[str]:
    """Have `count` letters lie in the dead-letter queue of "work"; returns their ids, oldest first."""
    refuses = Recorder(lambda _: DeadLetter(reason="refused"))
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), concurrency=1), refuses)
    sent = [message("job") for _ in range(count)]
    if ids:
        sent = [one.replace(message_id=given) for one, given in zip(sent, ids, strict=True)]
    await bus.publisher.publish_many(sent)
    await buried(bus, "work", count)
    return [one.message_id for one in sent]
