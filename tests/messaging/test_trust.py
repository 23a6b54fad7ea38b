"""Trust: what the broker says about a sender decides, and nothing that the message says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rockbot_messaging.envelope import ReturnAddress
from rockbot_messaging.layers import LayeredBus
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock, Recorder, SequenceIds
from rockbot_messaging.testing.harness import buried, message, pass_time_until
from rockbot_messaging.trust import Protected, Role, Roles, Trust, trusting_bus
from rockbot_messaging.verdicts import Retry

_USERS: dict[str, Role] = {"h": "host", "w": "worker", "o": "operator", "p": "publisher"}
_WORK = WorkSubscription(name="work", patterns=("inner.#", "open.#"), retry=RetryPolicy(max_attempts=3, delays=(1,)))


class Stage:
    """One broker, a receiver that enforces, and senders that are other users."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.broker = MemoryBroker(clock=self.clock, ids=SequenceIds())
        self.measures = Counters()
        self.taker = Recorder()
        self.buses: list[MemoryBus] = []
        self.receiver: LayeredBus

    async def open(self) -> Stage:
        inner = await self.sender("h")
        self.receiver = trusting_bus(inner, Roles(_USERS), ["inner.#"], clock=self.clock, measures=self.measures)
        await self.receiver.subscriber.subscribe(_WORK, self.taker)
        return self

    async def sender(self, user: str | None) -> MemoryBus:
        bus = MemoryBus(broker=self.broker, user_id=user)
        await bus.open()
        self.buses.append(bus)
        return bus

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    async def close(self) -> None:
        for bus in self.buses:
            await bus.close()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = await Stage().open()
    yield stage
    await stage.close()


def test_a_role_comes_from_the_validated_user_and_from_nothing_else() -> None:
    roles = Roles(_USERS)
    assert {user: roles.role_of(message("t", user_id=user)) for user in _USERS} == _USERS
    for user in (None, "", "root", "H"):
        claims = {"user-id": "h", "role": "host"}
        assert roles.role_of(message("t", user_id=user, source="h", headers=claims)) == "untrusted"


@pytest.mark.parametrize("user", ["h", "w", "o"])
async def test_insiders_may_send_what_belongs_to_running_work(stage: Stage, user: str) -> None:
    await (await stage.sender(user)).publish(message("inner.step"))
    await stage.taker.wait_for(1)


@pytest.mark.parametrize(("user", "role"), [("p", "publisher"), ("mallory", "untrusted"), (None, "untrusted")])
async def test_others_are_refused_with_a_reason_and_counted(stage: Stage, user: str | None, role: str) -> None:
    sender = await stage.sender(user)
    await sender.publish(message("inner.step", user_id="h", source="h"))
    await sender.publish(message("open.task"))
    (letter,) = await buried(stage.receiver, "work", 1)
    assert role in letter.failure.reason
    assert "inner.step" in letter.failure.reason
    assert user is None or repr(user) in letter.failure.reason
    assert letter.failure.error_type == "Untrusted"
    assert stage.measures.value(Names.UNTRUSTED, cause=f"role_{role}") == 1
    (received,) = await stage.taker.wait_for(1)
    assert received.topic == "open.task"


async def test_a_stranger_who_goes_past_the_exchanges_under_another_topic_is_refused(stage: Stage) -> None:
    sender = await stage.sender("p")
    await sender.send(message("innocent.topic"), address="rockbot.work")
    await buried(stage.receiver, "work", 1)
    assert stage.taker.seen == []


async def test_a_refusal_is_not_told_to_the_address_that_the_stranger_chose(stage: Stage) -> None:
    victim = Recorder()
    await stage.receiver.subscriber.subscribe(WorkSubscription(name="victim", patterns=("victim.step",)), victim)
    address = ReturnAddress("victim.step", "token")
    await (await stage.sender("p")).publish(message("inner.step", return_address=address))
    await buried(stage.receiver, "work", 1)
    marker = message("victim.step")
    await stage.receiver.publisher.publish(marker)
    await victim.wait_for(1)
    assert victim.ids == [marker.message_id]


async def test_a_type_of_running_work_under_the_topic_of_a_task_is_refused() -> None:
    stage = Stage()
    inner = await stage.sender("h")
    trust = Trust(Roles(_USERS), ["inner.#"], is_inner=lambda name: name == "ours.result", measures=stage.measures)
    stage.receiver = LayeredBus(inner, (trust,), clock=stage.clock)
    try:
        await stage.receiver.subscriber.subscribe(_WORK, stage.taker)
        await (await stage.sender("p")).publish(message("open.task", type="ours.result"))
        (letter,) = await buried(stage.receiver, "work", 1)
        assert "'ours.result'" in letter.failure.reason
        await (await stage.sender("p")).publish(message("open.task", type="ours.task"))
        await (await stage.sender("w")).publish(message("open.task", type="ours.result"))
        await stage.taker.wait_for(2)
    finally:
        await stage.close()


def test_a_rule_without_topics_covers_no_type_either_and_inner_topics_are_for_the_rule_to_say() -> None:
    envelope = message("inner.step", type="ours.result")
    is_inner = "ours.result".__eq__
    assert not Protected((), is_inner=is_inner).covers(envelope, _WORK)
    assert not Protected(("open.#",), is_inner=is_inner, inner=("inner.#",)).covers(envelope, _WORK)
    assert Protected(("other.#",), is_inner=is_inner, inner=("inner.#",)).covers(
        envelope.replace(topic="open.a"), _WORK
    )


def test_a_type_on_a_topic_of_its_own_is_covered_all_the_same_in_a_queue_that_does_not_ask_for_it() -> None:
    rule = Protected(("other.#",), is_inner="ours.result".__eq__, inner=("inner.#", "elsewhere.#"))
    assert not rule.covers(message("inner.step", type="ours.result"), _WORK)
    assert rule.covers(message("elsewhere.step", type="ours.result"), _WORK)


async def test_an_operator_may_send_on_what_was_refused(stage: Stage) -> None:
    sent = message("inner.step")
    await (await stage.sender("p")).publish(sent)
    await buried(stage.receiver, "work", 1)
    operator = await stage.sender("o")
    (letter,) = await operator.dead_letters.letters("work")
    await operator.send(letter.envelope, address="rockbot.work")
    (received,) = await stage.taker.wait_for(1)
    assert received.message_id == sent.message_id


async def test_a_retry_keeps_the_sender(stage: Stage) -> None:
    stage.taker = Recorder([Retry(reason="once more")])
    await stage.receiver.subscriber.subscribe(
        WorkSubscription(name="other", patterns=("inner.#",), retry=RetryPolicy(delays=(1,))), stage.taker
    )
    await (await stage.sender("w")).publish(message("inner.step"))
    await pass_time_until(stage, lambda: stage.taker.finished >= 2)
    assert {one.user_id for one in stage.taker.envelopes} == {"w"}
