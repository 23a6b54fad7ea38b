"""Cases: competing, holding, dying and stopping consumers; watchers."""

from __future__ import annotations

import asyncio

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import Door
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import WATCH_LIMIT, WatchSubscription, WorkSubscription
from rockbot_messaging.testing.harness import Harness, buried, depth, message, pass_time_until, waiting
from rockbot_messaging.testing.recorder import Reaction, Recorder
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

__all__ = ["ConsumingCases"]

_WORK = WorkSubscription(name="work", patterns=("job.#",))


class ConsumingCases:
    """Who holds which delivery, and what happens to it when its holder goes."""

    async def test_competing_consumers_share_each_message_once(self, harness: Harness) -> None:
        first, second, sender = [await harness.connect() for _ in range(3)]
        takers = [Recorder(held=True), Recorder(held=True)]
        work = WorkSubscription(name="work", patterns=("job",), prefetch=5)
        for bus, taker in zip((first, second), takers, strict=True):
            await bus.subscriber.subscribe(work, taker)
        sent = [message("job") for _ in range(30)]
        await sender.publisher.publish_many(sent)
        for taker in takers:
            await taker.wait_for(5)
            taker.release()
        await pass_time_until(harness, lambda: sum(taker.finished for taker in takers) == 30)
        assert sorted(takers[0].ids + takers[1].ids) == sorted(one.message_id for one in sent)

    async def test_a_process_holds_no_more_than_its_prefetch(self, harness: Harness) -> None:
        greedy, other, sender = [await harness.connect() for _ in range(3)]
        full, rest = Recorder(held=True), Recorder()
        await greedy.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), prefetch=2), full)
        sent = [message("job") for _ in range(6)]
        await sender.publisher.publish_many(sent[:2])
        await full.wait_for(2)
        await other.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), prefetch=10), rest)
        await sender.publisher.publish_many(sent[2:])
        await rest.wait_for(4)
        assert sorted(full.ids) == sorted(one.message_id for one in sent[:2])
        assert sorted(rest.ids) == sorted(one.message_id for one in sent[2:])
        full.release()

    async def test_a_bus_says_what_waits_in_its_work_queues_and_how_many_consume(self, harness: Harness) -> None:
        bus = await harness.connect()
        work = WorkSubscription(name="counted", patterns=("counted",))
        await bus.declare([work])

        async def says(ready: int, consumers: int) -> None:
            async with asyncio.timeout(60):
                while True:
                    (queue,) = [each for each in await bus.queues() if each.subscription == "counted"]
                    if (queue.ready, queue.consumers) == (ready, consumers):
                        return
                    await asyncio.sleep(0.002)

        await says(0, 0)
        await bus.publisher.publish_many([message("counted") for _ in range(3)])
        await says(3, 0)
        taker = Recorder()
        await bus.subscriber.subscribe(work, taker)
        await taker.wait_for(3)
        await says(0, 1)

    async def test_no_more_than_the_given_number_are_handled_at_the_same_time(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = Recorder(held=True)
        work = WorkSubscription(name="work", patterns=("job",), prefetch=10, concurrency=3)
        await bus.subscriber.subscribe(work, taker)
        await bus.publisher.publish_many([message("job") for _ in range(9)])
        await taker.wait_for(3)
        assert taker.running == 3
        taker.release()
        await taker.wait_finished(9)
        assert taker.peak == 3

    async def test_messages_of_one_queue_come_in_the_order_they_were_stored(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = Recorder()
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",), concurrency=1), taker)
        sent = [message(f"job.{number % 3}") for number in range(60)]
        for number in range(0, 60, 20):
            await bus.publisher.publish(sent[number])
            await bus.publisher.publish_many(sent[number + 1 : number + 20])
        await taker.wait_for(60)
        assert taker.ids == [one.message_id for one in sent]

    async def test_a_slow_subscription_does_not_starve_another(self, harness: Harness) -> None:
        bus = await harness.connect()
        slow, quick = Recorder(held=True), Recorder()
        await bus.subscriber.subscribe(WorkSubscription(name="slow", patterns=("job",), prefetch=1), slow)
        await bus.subscriber.subscribe(WorkSubscription(name="quick", patterns=("job",), prefetch=1), quick)
        await bus.publisher.publish_many([message("job") for _ in range(20)])
        await quick.wait_for(20)
        assert len(slow.seen) <= 1
        slow.release()
        await slow.wait_for(20)

    async def test_an_acknowledged_message_does_not_come_again(self, harness: Harness) -> None:
        bus, later = await harness.connect(), await harness.connect()
        taker, witness = Recorder(), Recorder()
        await bus.subscriber.subscribe(_WORK, taker)
        await bus.publisher.publish_many([message("job.one") for _ in range(5)])
        await taker.wait_finished(5)
        await bus.close()
        marker = message("job.marker")
        await later.publisher.publish(marker)
        await later.subscriber.subscribe(_WORK, witness)
        await witness.wait_for(1)
        assert witness.ids == [marker.message_id]

    async def test_what_a_dying_consumer_held_comes_again_marked_and_in_order(self, harness: Harness) -> None:
        dying, survivor, sender = [await harness.connect() for _ in range(3)]
        held, heir = Recorder(held=True), Recorder()
        work = WorkSubscription(name="work", patterns=("job",), prefetch=3)
        await dying.subscriber.subscribe(work, held)
        sent = [message("job") for _ in range(5)]
        await sender.publisher.publish_many(sent)
        await held.wait_for(3)
        await harness.kill(dying)
        await survivor.declare([work])
        await waiting(survivor, "work", 5)
        await survivor.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), concurrency=1), heir)
        await heir.wait_for(5)
        assert heir.ids == [one.message_id for one in sent]
        assert [one.redelivered for one in heir.envelopes] == [True, True, True, False, False]
        assert [one.attempt for one in heir.envelopes] == [1] * 5
        assert [one.redelivered for one in held.envelopes] == [False] * 3

    async def test_what_comes_back_is_handled_alone_and_the_rest_side_by_side(self, harness: Harness) -> None:
        dying, bus = await harness.connect(), await harness.connect()
        held = Recorder(held=True)
        work = WorkSubscription(name="work", patterns=("job",), prefetch=4)
        await dying.subscriber.subscribe(work, held)
        await bus.publisher.publish_many([message("job") for _ in range(4)])
        await held.wait_for(4)
        await harness.kill(dying)
        running: dict[str, bool] = {}
        beside: list[tuple[bool, int]] = []
        together = asyncio.Event()

        async def handle(envelope: MessageEnvelope) -> Verdict:
            running[envelope.message_id] = envelope.redelivered
            beside.append((envelope.redelivered, len(running)))
            if envelope.redelivered:
                for _ in range(20):
                    await asyncio.sleep(0)
                assert list(running) == [envelope.message_id]
            else:
                if len(running) == 3:
                    together.set()
                await together.wait()
            del running[envelope.message_id]
            return Ack()

        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), prefetch=10), handle)
        await bus.publisher.publish_many([message("job") for _ in range(3)])
        async with asyncio.timeout(60):
            await together.wait()
        assert [count for again, count in beside if again] == [1] * 4
        assert max(count for again, count in beside if not again) == 3
        assert await depth(bus, "work") == 0

    async def test_a_subscription_full_of_slow_and_failing_work_does_not_hold_up_another(
        self, harness: Harness
    ) -> None:
        bus = await harness.connect()
        slow, failing, quick = Recorder(held=True), Recorder(lambda _: Retry(after=0)), Recorder()
        patient = RetryPolicy(max_attempts=5)
        await bus.subscriber.subscribe(WorkSubscription(name="slow", patterns=("job",), prefetch=20), slow)
        await bus.subscriber.subscribe(WorkSubscription(name="failing", patterns=("job",), retry=patient), failing)
        await bus.subscriber.subscribe(WorkSubscription(name="quick", patterns=("job",), prefetch=5), quick)
        await bus.publisher.publish_many([message("job") for _ in range(300)])
        await quick.wait_finished(300)
        assert slow.finished == 0
        assert len(slow.seen) <= 20
        await buried(bus, "failing", 300)
        slow.release()
        await slow.wait_finished(300)

    async def test_a_watcher_that_is_too_slow_loses_the_oldest(self, harness: Harness) -> None:
        bus = await harness.connect()
        watcher = Recorder(held=True)
        watch = WatchSubscription(name="news", patterns=("news",), prefetch=1)
        await bus.subscriber.subscribe(watch, watcher)
        sent = [message("news", b"") for _ in range(WATCH_LIMIT + 50)]
        await bus.publisher.publish(sent[0], door=Door.PUBLIC)
        await watcher.wait_for(1)
        for at in range(1, len(sent), 1000):
            await bus.publisher.publish_many(sent[at : at + 1000], door=Door.PUBLIC)
        watcher.release()
        await watcher.wait_for(WATCH_LIMIT + 1)
        assert watcher.ids == [one.message_id for one in (sent[0], *sent[-WATCH_LIMIT:])]

    async def test_stopping_waits_for_what_is_in_hand(self, harness: Harness) -> None:
        bus, later = await harness.connect(), await harness.connect()
        taker, witness = Recorder(held=True), Recorder()
        consumption = await bus.subscriber.subscribe(_WORK, taker)
        await bus.publisher.publish(message("job.one"))
        await taker.wait_for(1)
        stopping = asyncio.create_task(consumption.stop(timeout=10))
        await asyncio.sleep(0)
        assert not stopping.done()
        taker.release()
        assert await stopping == 0
        assert await consumption.stop(timeout=1) == 0
        marker = message("job.marker")
        await bus.publisher.publish(marker)
        await later.subscriber.subscribe(_WORK, witness)
        await witness.wait_for(1)
        assert witness.ids == [marker.message_id]
        assert len(taker.seen) == 1

    async def test_stopping_in_a_hurry_hands_back_what_is_in_hand(self, harness: Harness) -> None:
        bus, later = await harness.connect(), await harness.connect()
        taker, heir = Recorder(held=True), Recorder()
        work = WorkSubscription(name="work", patterns=("job.#",), prefetch=2)
        consumption = await bus.subscriber.subscribe(work, taker)
        sent = [message("job.one") for _ in range(3)]
        await bus.publisher.publish_many(sent)
        await taker.wait_for(2)
        assert await consumption.stop(timeout=0) == 2
        assert (taker.running, taker.finished) == (0, 0)
        await later.declare([work])
        await waiting(later, "work", 3)
        await later.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",), concurrency=1), heir)
        await heir.wait_for(3)
        assert heir.ids == [one.message_id for one in sent]
        assert [one.redelivered for one in heir.envelopes] == [True, True, False]
        assert [one.attempt for one in heir.envelopes] == [1, 1, 1]

    async def test_closing_hands_back_what_is_in_hand(self, harness: Harness) -> None:
        bus, later = await harness.connect(), await harness.connect()
        taker, heir = Recorder(held=True), Recorder()
        await bus.subscriber.subscribe(_WORK, taker)
        sent = message("job.one")
        await bus.publisher.publish(sent)
        await taker.wait_for(1)
        await bus.close()
        await later.subscriber.subscribe(_WORK, heir)
        await heir.wait_for(1)
        assert heir.ids == [sent.message_id]
        assert heir.envelopes[0].redelivered

    async def test_a_handler_may_publish_and_send(self, harness: Harness) -> None:
        bus = await harness.connect()
        ends = Recorder()
        answers = await bus.subscriber.subscribe(WatchSubscription(name="answers"), ends)

        async def pass_on(envelope: MessageEnvelope) -> Verdict:
            hops = int(envelope.body)
            if hops:
                await bus.publisher.publish(message("job.hop", str(hops - 1).encode()))
            else:
                await bus.publisher.send(message("job.end", b"done"), address=answers.address)
            return Ack()

        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",), prefetch=1), pass_on)
        await bus.publisher.publish(message("job.hop", b"20"))
        (end,) = await ends.wait_for(1)
        assert end.body == b"done"

    async def test_every_watcher_gets_what_is_published_while_it_watches(self, harness: Harness) -> None:
        buses = [await harness.connect() for _ in range(3)]
        watchers, witness = [Recorder(), Recorder()], Recorder()
        watch = WatchSubscription(name="control", patterns=("control.*",))
        await buses[2].subscriber.subscribe(WorkSubscription(name="work", patterns=("control.#",)), witness)
        await buses[2].publisher.publish(message("control.before"))
        watching = [
            await bus.subscriber.subscribe(watch, watcher) for bus, watcher in zip(buses, watchers, strict=False)
        ]
        assert watching[0].address != watching[1].address
        for door in Door:
            await buses[2].publisher.publish(message(f"control.{door.value}"), door=door)
        for watcher in watchers:
            await watcher.wait_for(3)
        await watching[0].stop(timeout=1)
        await buses[2].publisher.publish(message("control.after"))
        await watchers[1].wait_for(4)
        await watching[1].stop(timeout=1)
        await buses[2].publisher.publish(message("control.late"))
        await witness.wait_for(5)
        during = sorted(f"control.{door.value}" for door in Door)
        assert sorted(one.topic for one in watchers[0].envelopes) == during
        assert sorted(one.topic for one in watchers[1].envelopes) == sorted([*during, "control.after"])

    async def test_a_watcher_that_fails_drops_the_message_and_goes_on(self, harness: Harness) -> None:
        bus = await harness.connect()
        reactions: list[Reaction] = [ValueError("no"), Retry(after=0), DeadLetter(reason="never"), Ack()]
        watcher = Recorder(reactions)
        await bus.declare([_WORK])
        await bus.subscriber.subscribe(WatchSubscription(name="news", patterns=("news.#",)), watcher)
        sent = [message("news.one") for _ in range(4)]
        for number, one in enumerate(sent, start=1):
            await bus.publisher.publish(one)
            await watcher.wait_for(number)
        assert watcher.ids == [one.message_id for one in sent]
        assert [queue.depth for queue in await bus.dead_letters.queues()] == [0, 0]
        assert await depth(bus, "work") == 0
