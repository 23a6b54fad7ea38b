"""Cases: who receives a message, and what becomes of one that nobody receives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rockbot_messaging.envelope import ReturnAddress
from rockbot_messaging.errors import BodyTooLarge, Closed, HeadersTooLarge, InvalidTopic, Unroutable
from rockbot_messaging.letters import UNROUTED
from rockbot_messaging.ports import Door
from rockbot_messaging.subscriptions import WatchSubscription, WorkSubscription
from rockbot_messaging.testing.harness import Harness, buried, depth, message
from rockbot_messaging.testing.recorder import Recorder

__all__ = ["RoutingCases"]


class RoutingCases:
    """Doors, patterns, limits."""

    async def test_patterns_decide_who_receives_a_topic(self, harness: Harness) -> None:
        bus = await harness.connect()
        plans = {
            "exact": ("shop.order.new",),
            "star": ("shop.*.new",),
            "hash": ("shop.#",),
            "middle": ("#.order.#",),
            "two": ("shop.order.new", "shop.*.*"),
        }
        takers = {name: Recorder() for name in plans}
        for name, patterns in plans.items():
            await bus.subscriber.subscribe(WorkSubscription(name=name, patterns=patterns), takers[name])
        for topic in ("shop.order.new", "shop", "shop.refund.new", "order", "a.b.order.c.d", "shop.order.new.late"):
            await bus.publisher.publish(message(topic))
        expected = {
            "exact": ["shop.order.new"],
            "star": ["shop.order.new", "shop.refund.new"],
            "hash": ["shop.order.new", "shop", "shop.refund.new", "shop.order.new.late"],
            "middle": ["shop.order.new", "order", "a.b.order.c.d", "shop.order.new.late"],
            "two": ["shop.order.new", "shop.refund.new"],
        }
        for name, topics in expected.items():
            await takers[name].wait_for(len(topics))
        await bus.close()
        for name, topics in expected.items():
            assert sorted(one.topic for one in takers[name].envelopes) == sorted(topics), name

    async def test_a_command_nobody_receives_is_kept_and_its_publisher_told(self, harness: Harness) -> None:
        bus = await harness.connect()
        await bus.declare([WorkSubscription(name="elsewhere", patterns=("other",))])
        lost = message("nobody.home", b"keep me")
        with pytest.raises(Unroutable) as told:
            await bus.publisher.publish(lost)
        assert told.value.topic == "nobody.home"
        (letter,) = await buried(bus, UNROUTED, 1)
        assert letter.id == lost.message_id
        assert letter.envelope.body == b"keep me"
        assert letter.failure.topic == "nobody.home"
        assert letter.failure.queue == ""
        assert letter.failure.reason

    async def test_a_public_message_nobody_receives_is_kept_silently(self, harness: Harness) -> None:
        bus = await harness.connect()
        lost = message("nobody.home", b"keep me")
        await bus.publisher.publish(lost, door=Door.PUBLIC)
        (letter,) = await buried(bus, UNROUTED, 1)
        assert letter.id == lost.message_id
        assert letter.envelope.topic == "nobody.home"
        assert letter.failure.topic == "nobody.home"
        assert letter.failure.reason

    async def test_a_lossy_message_nobody_watches_is_dropped(self, harness: Harness) -> None:
        bus = await harness.connect()
        work = Recorder()
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("news.#",)), work)
        await bus.publisher.publish(message("news.today"), door=Door.LOSSY)
        await bus.publisher.publish(message("nobody.home"), door=Door.LOSSY)
        marker = message("news.end")
        await bus.publisher.publish(marker)
        await work.wait_for(1)
        assert work.ids == [marker.message_id]
        assert await depth(bus, UNROUTED) == 0

    async def test_work_receives_from_the_public_door_and_the_door_for_commands(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = Recorder()
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), taker)
        by_door = [message("job"), message("job")]
        await bus.publisher.publish(by_door[0], door=Door.PUBLIC)
        await bus.publisher.publish(by_door[1], door=Door.COMMANDS)
        await taker.wait_for(2)
        assert sorted(taker.ids) == sorted(one.message_id for one in by_door)

    async def test_a_declared_queue_holds_messages_until_a_consumer_comes(self, harness: Harness) -> None:
        sender, receiver = await harness.connect(), await harness.connect()
        later = WorkSubscription(name="later", patterns=("job.#",))
        await sender.declare([later])
        await sender.declare([later])
        sent = [message("job.one"), message("job.two")]
        for one in sent:
            await sender.publisher.publish(one)
        taker = Recorder()
        await receiver.subscriber.subscribe(later, taker)
        await taker.wait_for(2)
        assert taker.ids == [one.message_id for one in sent]

    async def test_many_are_published_in_one_go(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = Recorder()
        work = WorkSubscription(name="work", patterns=("job",), concurrency=1)
        await bus.subscriber.subscribe(work, taker)
        sent = [message("job", str(number).encode()) for number in range(200)]
        await bus.publisher.publish_many(sent)
        await taker.wait_for(200)
        assert taker.ids == [one.message_id for one in sent]

    async def test_one_bad_message_does_not_hold_up_the_many(self, harness: Harness) -> None:
        bus = await harness.connect()
        taker = Recorder()
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), taker)
        sent = [message("job"), message("nobody.home"), message("job")]
        with pytest.raises(Unroutable):
            await bus.publisher.publish_many(sent)
        await taker.wait_for(2)
        assert sorted(taker.ids) == sorted([sent[0].message_id, sent[2].message_id])
        assert [letter.id for letter in await buried(bus, UNROUTED, 1)] == [sent[1].message_id]

    @pytest.mark.parametrize("topic", ["", "a..b", "a b", "a.*", "#", "käse", ".a", "a" * 65, ".".join(["word"] * 60)])
    async def test_an_illegal_topic_is_refused(self, harness: Harness, topic: str) -> None:
        bus = await harness.connect()
        with pytest.raises(InvalidTopic):
            await bus.publisher.publish(message(topic), door=Door.PUBLIC)
        assert await depth(bus, UNROUTED) == 0

    async def test_a_body_over_the_limit_is_refused_before_it_is_sent(self, harness: Harness) -> None:
        bus = await harness.connect(max_body_bytes=1000)
        taker = Recorder()
        consumption = await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), taker)
        with pytest.raises(BodyTooLarge, match="1001"):
            await bus.publisher.publish(message("job", b"x" * 1001))
        with pytest.raises(BodyTooLarge):
            await bus.publisher.send(message("job", b"x" * 1001), address=consumption.address)
        fits = message("job", b"x" * 1000)
        await bus.publisher.publish(fits)
        await taker.wait_for(1)
        assert taker.ids == [fits.message_id]

    @pytest.mark.parametrize(
        "fields",
        [
            {"headers": {"large": "x" * 66_000}},
            {"headers": {f"h{number}": "ü" * 500 for number in range(70)}},
            {"conversation_id": "c" * 66_000},
            {"return_address": ReturnAddress("home", "t" * 66_000)},
        ],
        ids=["one", "many", "a field", "a token"],
    )
    async def test_headers_over_the_limit_are_refused_before_they_are_sent(
        self, harness: Harness, fields: dict[str, Any]
    ) -> None:
        bus = await harness.connect()
        taker = Recorder()
        consumption = await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), taker)
        with pytest.raises(HeadersTooLarge, match="the limit is 65536"):
            await bus.publisher.publish(message("job", **fields))
        with pytest.raises(HeadersTooLarge):
            await bus.publisher.send(message("job", **fields), address=consumption.address)
        fits = message("job", headers={"large": "x" * 64_000})
        await bus.publisher.publish(fits)
        await taker.wait_for(1)
        assert taker.ids == [fits.message_id]

    @pytest.mark.parametrize(
        "fields",
        [
            {"correlation_id": "c" * 256},
            {"type": "ü" * 128},
            {"headers": {"list": [1, 2]}},
            {"headers": {"wide": 2**63}},
            {"headers": {"n" * 256: 1}},
            {"headers": {"large": "x" * 130_000}},
        ],
        ids=lambda fields: next(iter(fields)),
    )
    async def test_properties_that_do_not_fit_are_refused(self, harness: Harness, fields: dict[str, Any]) -> None:
        bus = await harness.connect()
        taker = Recorder()
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",)), taker)
        with pytest.raises(ValueError, match=r"bytes|bits|list"):
            await bus.publisher.publish(message("job", **fields))
        fits = message("job", correlation_id="c" * 255, type="ü" * 127, headers={"n" * 255: "x" * 60_000})
        await bus.publisher.publish(fits)
        await taker.wait_for(1)
        assert taker.ids == [fits.message_id]

    async def test_an_address_is_one_queue_and_gone_with_it(self, harness: Harness) -> None:
        asker, worker = await harness.connect(), await harness.connect()
        answers, strangers = Recorder(), Recorder()
        replies = await asker.subscriber.subscribe(WatchSubscription(name="replies"), answers)
        await worker.subscriber.subscribe(WatchSubscription(name="replies"), strangers)
        answer = message("agent.response.assistant", correlation_id="question-1")
        await worker.publisher.send(answer, address=replies.address)
        (received,) = await answers.wait_for(1)
        assert received.message_id == answer.message_id
        assert received.topic == answer.topic
        assert received.correlation_id == "question-1"
        await replies.stop(timeout=1)
        with pytest.raises(Unroutable):
            await worker.publisher.send(message("agent.response.assistant"), address=replies.address)
        assert strangers.seen == []

    async def test_closing_twice_is_closing_once_and_then_nothing_goes(self, harness: Harness) -> None:
        bus = await harness.connect()
        work = WorkSubscription(name="work", patterns=("job",))
        await bus.subscriber.subscribe(work, Recorder())
        assert bus.health().connected
        await asyncio.gather(bus.close(), bus.close())
        await bus.close()
        assert not bus.health().connected
        with pytest.raises(Closed):
            await bus.publisher.publish(message("job"))
        with pytest.raises(Closed):
            await bus.publisher.send(message("job"), address="anything")
        with pytest.raises(Closed):
            await bus.subscriber.subscribe(work, Recorder())
