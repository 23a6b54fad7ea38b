"""Requests and replies: any number in flight, never a hang, and what is late is noticed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from rockbot_messaging.composing import outgoing
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Closed, Unroutable
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.requests import Requests, TimedOut
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import SequenceIds
from rockbot_messaging.verdicts import Ack, Verdict

_WORK = WorkSubscription(name="echo", patterns=("echo.#",), concurrency=100)


class Responder:
    """Answers what it is asked as the test wants it."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.asked: list[MessageEnvelope] = []
        self.silent = False
        self.copies = 1
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.was_asked = asyncio.Event()

    async def __call__(self, envelope: MessageEnvelope) -> Verdict:
        self.asked.append(envelope)
        self.was_asked.set()
        await self.may_answer.wait()
        if not self.silent:
            for _ in range(self.copies):
                await self.answer(envelope)
        return Ack()

    async def answer(self, envelope: MessageEnvelope) -> None:
        reply = outgoing("echo.reply", envelope.body, type="echo.reply", correlation_id=envelope.correlation_id)
        await self.bus.publisher.send(reply, address=envelope.reply_to or "")


class Stage:
    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.bus, self.other = MemoryBus(broker=self.broker), MemoryBus(broker=self.broker)
        self.responder = Responder(self.other)
        self.measures = Counters()
        self.late: list[MessageEnvelope] = []
        self.late_came = asyncio.Event()

    def on_late(self, envelope: MessageEnvelope) -> None:
        self.late.append(envelope)
        self.late_came.set()

    def requests(self) -> Requests:
        return Requests(self.bus, measures=self.measures, on_late=self.on_late)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.bus.open()
    await stage.other.open()
    await stage.other.subscriber.subscribe(_WORK, stage.responder)
    yield stage
    await stage.bus.close()
    await stage.other.close()


async def test_a_request_has_its_reply(stage: Stage) -> None:
    async with stage.requests() as requests:
        reply = await requests.request(outgoing("echo.one", b"hello"), timeout=60)
    assert reply.body == b"hello"
    (asked,) = stage.responder.asked
    assert asked.correlation_id == asked.message_id == reply.correlation_id


async def test_many_requests_at_the_same_time_have_their_own_replies(stage: Stage) -> None:
    stage.responder.may_answer.clear()
    async with stage.requests() as requests:
        tasks = [
            asyncio.create_task(requests.request(outgoing("echo.many", str(number)), timeout=60))
            for number in range(100)
        ]
        while len(stage.responder.asked) < 100:
            await asyncio.sleep(0)
        assert requests.in_flight == 100
        assert {one.reply_to for one in stage.responder.asked} == {requests.address}
        stage.responder.may_answer.set()
        replies = await asyncio.gather(*tasks)
        assert requests.in_flight == 0
    assert [reply.body for reply in replies] == [str(number).encode() for number in range(100)]


async def test_a_request_carries_its_deadline_and_keeps_an_earlier_one(stage: Stage) -> None:
    async with stage.requests() as requests:
        before = outgoing("echo.one", b"").timestamp_ms
        await requests.request(outgoing("echo.one", b""), timeout=60)
        await requests.request(outgoing("echo.one", b"", timeout=30), timeout=60)
        await requests.request(outgoing("echo.one", b"", timeout=90), timeout=60)
    deadlines = [(one.deadline_ms or 0) - before for one in stage.responder.asked]
    for deadline, seconds in zip(deadlines, (60, 30, 60), strict=True):
        assert seconds * 1000 <= deadline < (seconds + 20) * 1000


async def test_a_request_that_nobody_answers_times_out_and_says_what_to_look_at(stage: Stage) -> None:
    stage.responder.silent = True
    async with stage.requests() as requests:
        asked = outgoing("echo.silent", b"")
        with pytest.raises(TimedOut, match=r"echo\.silent") as caught:
            await requests.request(asked, timeout=0.02)
        assert requests.in_flight == 0
    assert asked.message_id in str(caught.value)
    assert "dead letters" in str(caught.value)


async def test_a_request_that_nobody_receives_fails_at_once(stage: Stage) -> None:
    async with stage.requests() as requests:
        async with asyncio.timeout(60):
            with pytest.raises(Unroutable):
                await requests.request(outgoing("nobody.home", b""), timeout=3600)
        assert requests.in_flight == 0


async def test_a_late_reply_is_counted_logged_once_and_handed_over(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.responder.may_answer.clear()
    with caplog.at_level(logging.WARNING):
        async with stage.requests() as requests:
            for _ in range(3):
                with pytest.raises(TimedOut):
                    await requests.request(outgoing("echo.slow", b"too late"), timeout=0.02)
            stage.responder.may_answer.set()
            while len(stage.late) < 3:
                async with asyncio.timeout(60):
                    await stage.late_came.wait()
                stage.late_came.clear()
    assert {one.body for one in stage.late} == {b"too late"}
    assert stage.measures.value(Names.LATE_REPLIES) == 3
    assert len([record for record in caplog.records if "given up" in record.message]) == 1


async def test_a_copy_of_a_reply_is_ignored(stage: Stage) -> None:
    stage.responder.copies = 3
    async with stage.requests() as requests:
        await requests.request(outgoing("echo.one", b""), timeout=60)
        await requests.request(outgoing("echo.two", b""), timeout=60)
    assert stage.late == []
    assert stage.measures.value(Names.LATE_REPLIES) == 0


async def test_two_requests_with_one_correlation_id_are_refused(stage: Stage) -> None:
    stage.responder.may_answer.clear()
    async with stage.requests() as requests:
        first = asyncio.create_task(requests.request(outgoing("echo.one", b"", correlation_id="7"), timeout=60))
        await stage.responder.was_asked.wait()
        with pytest.raises(ValueError, match="'7'"):
            await requests.request(outgoing("echo.one", b"", correlation_id="7"), timeout=60)
        stage.responder.may_answer.set()
        assert (await first).correlation_id == "7"
        await requests.request(outgoing("echo.one", b"", correlation_id="7"), timeout=60)


async def test_closing_ends_requests_that_wait(stage: Stage) -> None:
    stage.responder.may_answer.clear()
    requests = stage.requests()
    await requests.open()
    address = requests.address
    waiting = asyncio.create_task(requests.request(outgoing("echo.one", b""), timeout=3600))
    await stage.responder.was_asked.wait()
    await requests.close()
    await requests.close()
    with pytest.raises(Closed):
        await waiting
    with pytest.raises(Closed):
        await requests.request(outgoing("echo.one", b""), timeout=1)
    assert address not in stage.broker.queues


async def test_a_request_that_is_cancelled_leaves_nothing_behind(stage: Stage) -> None:
    stage.responder.may_answer.clear()
    async with stage.requests() as requests:
        waiting = asyncio.create_task(requests.request(outgoing("echo.one", b""), timeout=3600))
        await stage.responder.was_asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert requests.in_flight == 0
        stage.responder.may_answer.set()
        async with asyncio.timeout(60):
            await stage.late_came.wait()


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
async def test_a_request_needs_a_time_limit(stage: Stage, timeout: float) -> None:
    async with stage.requests() as requests:
        with pytest.raises(ValueError, match="timeout"):
            await requests.request(outgoing("echo.one", b""), timeout=timeout)


async def test_requests_that_are_not_open_say_how_to_open_them(stage: Stage) -> None:
    with pytest.raises(Closed, match="async with"):
        await Requests(stage.bus, ids=SequenceIds()).request(outgoing("echo.one", b""), timeout=1)
