"""The operator over a real broker does what it does over the bus in memory."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from gateway.fake_agent import AGENT, FakeAgent, desk_over

from rockbot.events.tasks import AgentResponse
from rockbot.letters.models import Edit, LetterFilter
from rockbot.operators.bus import BusOperator
from rockbot.operators.faults import TimedOut
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.errors import Unroutable

pytestmark = pytest.mark.rabbitmq


@dataclass
class Fleet:
    operator: BusOperator
    agent: FakeAgent


@pytest.fixture
async def fleet(amqp_url: str) -> AsyncIterator[Fleet]:
    """A host with the fake agent, and an operator on a connection of its own."""
    from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings

    def connection(*names: str) -> RabbitBus:
        settings = RabbitSettings(url=amqp_url, namespace=namespace, subscriptions=names)
        return RabbitBus(settings, clock=SystemClock(), ids=RandomIds())

    namespace = f"op{uuid.uuid4().hex[:8]}"
    serving, operating = connection(), connection(AGENT.name)
    await serving.open()
    agent = FakeAgent(serving)
    await serving.declare([AGENT])
    await serving.subscriber.subscribe(AGENT, agent)
    await operating.open()
    store = MemoryStateStore(SystemClock())
    await store.open()
    desk = desk_over(operating, store, namespace=namespace)
    yield Fleet(
        BusOperator(operating, clock=SystemClock(), ids=RandomIds(), dead_letters=desk, on_close=operating.close),
        agent,
    )
    await operating.close()
    await serving.close()
    await store.close()


async def test_a_question_is_followed_to_its_answer(fleet: Fleet) -> None:
    async with asyncio.timeout(60):
        events = [event async for event in fleet.operator.ask("assistant", "hello", timeout=60)]
    assert isinstance(events[-1], AgentResponse)
    assert (events[-1].output, [event.kind for event in events[:-1]]) == ("HELLO", ["accepted", "tool_call"])  # type: ignore[union-attr]
    with pytest.raises(TimedOut):
        async for _ in fleet.operator.ask("assistant", "silent", timeout=0.2):
            pass


async def test_a_question_to_nobody_is_kept_and_says_where(fleet: Fleet) -> None:
    with pytest.raises(Unroutable, match="no running host has an agent 'nobody'") as caught:
        async for _ in fleet.operator.ask("nobody", "hello", timeout=60):
            pass
    letter_id = str(caught.value).rpartition(" ")[2]
    letter = await fleet.operator.dead_letters.letter("unrouted", letter_id)
    assert (letter.topic, letter.type) == ("agent.task.nobody", "rockbot.agent.task")


async def test_a_dead_letter_is_read_mended_and_handled(fleet: Fleet) -> None:
    operator = fleet.operator
    message = await operator.publish("agent.task.assistant", b"\xffnot json", headers={"k": "v"})
    desk = operator.dead_letters
    async with asyncio.timeout(60):
        while not (await desk.find(LetterFilter(queue="agent.assistant"))).total:
            await asyncio.sleep(0.05)
    letter = await desk.letter("agent.assistant", message.message_id[:8])
    assert (letter.id, letter.body_bytes, letter.headers["k"]) == (message.message_id, b"\xffnot json", "v")
    assert (letter.error_type, letter.topic, letter.traceback) == (
        "InvalidEvent",
        "agent.task.assistant",
        "Trace: here",
    )
    depths = {queue.subscription: queue.depth for queue in await desk.queues()}
    assert depths == {"agent.assistant": 1, "unrouted": 0}
    assert (await operator.doctor()).worst == "warn"
    await desk.edit("agent.assistant", letter.id, Edit(body='{"input": "mended"}'), actor="me")
    async with asyncio.timeout(60):
        while len(fleet.agent.seen) < 2:
            await asyncio.sleep(0)
    assert fleet.agent.seen[1].message_id == letter.id
