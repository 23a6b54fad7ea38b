"""What an operator promises, over the bus and over the socket alike."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from gateway.fake_agent import FakeHost

from rockbot.events.tasks import AgentResponse, AgentStatus
from rockbot.operator import AskEvent, Operator
from rockbot.operators.faults import InvalidRequest, TimedOut
from rockbot_messaging.errors import BodyTooLarge, InvalidTopic, LetterNotFound, Unroutable

TASK = "agent.task.assistant"


async def collect(operator: Operator, text: str, **options: Any) -> list[AskEvent]:
    async with asyncio.timeout(10):
        return [event async for event in operator.ask("assistant", text, **options)]


async def dead(operated: FakeHost, operator: Operator, body: bytes = b"not json") -> str:
    """The id of a message that has become a letter."""
    message = await operator.publish(TASK, body)
    async with asyncio.timeout(5):
        while not any(item.id == message.message_id for item in await operated.operator.letters("agent.assistant")):
            await asyncio.sleep(0)
    return message.message_id


async def test_a_question_gives_its_steps_and_then_its_answer(operator: Operator) -> None:
    events = await collect(operator, "hello", timeout=5)
    assert [event.kind for event in events if isinstance(event, AgentStatus)] == ["accepted", "tool_call"]
    answer = events[-1]
    assert isinstance(answer, AgentResponse)
    assert (answer.status, answer.output) == ("completed", "HELLO")


async def test_steps_of_other_tasks_are_not_shown(operator: Operator) -> None:
    events = await collect(operator, "hello", timeout=5)
    assert len({event.task_id for event in events}) == 1


async def test_two_questions_at_the_same_time_do_not_mix(operator: Operator) -> None:
    one, two = await asyncio.gather(collect(operator, "one", timeout=5), collect(operator, "two", timeout=5))
    assert [events[-1].output for events in (one, two) if isinstance(events[-1], AgentResponse)] == ["ONE", "TWO"]
    assert {event.task_id for event in one}.isdisjoint(event.task_id for event in two)


async def test_a_conversation_is_carried_in_the_message(operator: Operator, operated: FakeHost) -> None:
    events = await collect(operator, "hello", conversation_id="talk-1", timeout=5)
    assert events[-1].conversation_id == "talk-1"
    assert operated.agent.seen[-1].conversation_id == "talk-1"


async def test_an_unanswered_question_says_what_to_look_at(operator: Operator) -> None:
    with pytest.raises(TimedOut, match=r"no answer from agent 'assistant' within 0\.05 s .*rockbot dlq list.*doctor"):
        await collect(operator, "silent", timeout=0.05)


async def test_a_stalled_question_names_the_step_when_time_is_over(operator: Operator) -> None:
    with pytest.raises(TimedOut, match=r"waits in tools\.dlq: no disk\. Mend it"):
        await collect(operator, "stall", timeout=0.2)


async def test_a_question_to_nobody_is_kept_and_says_where(operator: Operator) -> None:
    with pytest.raises(Unroutable, match=r"no running host has an agent 'nobody'.*dlq show unrouted (\S+)") as caught:
        async for _ in operator.ask("nobody", "hello", timeout=5):
            pass
    letter_id = str(caught.value).rpartition(" ")[2]
    assert (await operator.letter("unrouted", letter_id)).topic == "agent.task.nobody"


async def test_a_question_to_an_impossible_name_is_refused(operator: Operator, operated: FakeHost) -> None:
    with pytest.raises(InvalidTopic, match="not a legal topic"):
        async for _ in operator.ask("a b", "hello", timeout=5):
            pass
    with pytest.raises(InvalidRequest, match="no task"):
        await collect(operator, "", timeout=5)
    assert operated.agent.seen == []
    assert operated.watchers() == []


async def test_a_reply_queue_ends_with_its_question(operator: Operator, operated: FakeHost) -> None:
    await collect(operator, "hello", timeout=5)
    with pytest.raises(TimedOut):
        await collect(operator, "silent", timeout=0.05)
    stream: Any = operator.ask("assistant", "stall", timeout=60)
    async with aclosing(stream):
        await anext(stream)
        assert len(operated.watchers()) == 1
    async with asyncio.timeout(5):
        while operated.watchers():
            await asyncio.sleep(0)


async def test_a_published_message_arrives_as_it_was_given(operator: Operator, operated: FakeHost) -> None:
    message = await operator.publish(
        TASK, b'{"input": "x"}', type="rockbot.agent.task", correlation_id="c", conversation_id="t", headers={"k": "v"}
    )
    async with asyncio.timeout(5):
        await operated.agent.asked.wait()
    seen = operated.agent.seen[0]
    assert (message.message_id, message.topic, message.correlation_id) == (seen.message_id, TASK, "c")
    assert (seen.body, seen.type, seen.correlation_id, seen.conversation_id) == (
        b'{"input": "x"}',
        "rockbot.agent.task",
        "c",
        "t",
    )
    assert (seen.headers["k"], seen.content_type) == ("v", "application/json")


@pytest.mark.parametrize("body", [b"", b"not json", "Grüße ☃".encode(), bytes(range(256))])
async def test_any_bytes_can_be_published_and_are_shown_again(
    operator: Operator, operated: FakeHost, body: bytes
) -> None:
    letter = await operator.letter("agent.assistant", await dead(operated, operator, body))
    assert letter.body_bytes == body


async def test_a_message_nobody_receives_is_an_error_that_says_where_it_was_kept(operator: Operator) -> None:
    with pytest.raises(Unroutable, match=r"nobody receives topic 'no\.such'.*rockbot dlq show unrouted \S{36}$"):
        await operator.publish("no.such", b"{}")
    assert [letter.topic for letter in await operator.letters("unrouted")] == ["no.such"]


async def test_bad_topics_headers_and_sizes_are_refused(operator: Operator, operated: FakeHost) -> None:
    with pytest.raises(InvalidTopic):
        await operator.publish("no topic", b"{}")
    with pytest.raises(InvalidRequest, match="'x-death' cannot be set"):
        await operator.publish(TASK, b"{}", headers={"x-death": "1"})
    with pytest.raises(BodyTooLarge):
        await operator.publish(TASK, b" " * ((16 << 20) + 1))
    assert operated.agent.seen == []


async def test_a_letter_tells_why_and_whence(operator: Operator, operated: FakeHost) -> None:
    letter_id = await dead(operated, operator)
    [summary] = await operator.letters("agent.assistant")
    letter = await operator.letter("rockbot.agent.assistant.dlq", letter_id[:8])
    assert (summary.id, letter.id) == (letter_id, letter_id)
    assert (letter.reason, letter.error_type) == ("the body is no rockbot.agent.task", "InvalidEvent")
    assert (letter.topic, letter.attempt, letter.traceback, letter.body) == (TASK, 1, "Trace: here", "not json")
    assert letter.at_ms > 0
    assert summary.body_size == 8
    depths = {queue.subscription: queue.depth for queue in await operator.queues()}
    assert depths == {"agent.assistant": 1, "unrouted": 0}


async def test_letters_come_in_pages(operator: Operator, operated: FakeHost) -> None:
    ids = [await dead(operated, operator, f"bad {number}".encode()) for number in range(3)]
    assert [letter.id for letter in await operator.letters("agent.assistant", limit=2)] == ids[:2]
    assert [letter.id for letter in await operator.letters("agent.assistant", limit=2, offset=2)] == ids[2:]


async def test_a_mended_letter_is_handled_under_its_old_id(operator: Operator, operated: FakeHost) -> None:
    letter_id = await dead(operated, operator)
    message = await operator.replay("agent.assistant", letter_id, body=b'{"input": "mended"}')
    assert (message.message_id, message.topic) == (letter_id, TASK)
    assert await operator.letters("agent.assistant") == []
    async with asyncio.timeout(5):
        while len(operated.agent.seen) < 2:
            await asyncio.sleep(0)
    assert operated.agent.seen[1].body == b'{"input": "mended"}'


async def test_a_discarded_letter_is_gone(operator: Operator, operated: FakeHost) -> None:
    letter_id = await dead(operated, operator)
    gone = await operator.discard("agent.assistant", letter_id, reason="a test")
    assert gone.id == letter_id
    with pytest.raises(LetterNotFound, match=letter_id):
        await operator.letter("agent.assistant", letter_id)


async def test_unknown_queues_and_letters_are_named(operator: Operator) -> None:
    with pytest.raises(LetterNotFound, match=r"'no\.such'"):
        await operator.letters("no.such")
    with pytest.raises(LetterNotFound, match="too short"):
        await operator.letter("agent.assistant", "abc")


async def test_the_pipeline_is_told(operator: Operator) -> None:
    pipeline = await operator.pipeline()
    assert pipeline.chain[0].links == ("logging", "agent")
    [subscription] = pipeline.subscriptions
    assert (subscription.name, subscription.dead_letters) == ("agent.assistant", "rockbot.agent.assistant.dlq")
    assert subscription.retry.startswith("1 attempts")


async def test_the_doctor_warns_of_waiting_letters(operator: Operator, operated: FakeHost) -> None:
    assert (await operator.doctor()).worst == "ok"
    await dead(operated, operator)
    diagnosis = await operator.doctor()
    [warning] = [check for check in diagnosis.checks if check.status != "ok"]
    assert (diagnosis.worst, warning.detail, warning.advice) == (
        "warn",
        "1 in rockbot.agent.assistant.dlq",
        "rockbot dlq list agent.assistant",
    )


async def test_the_doctor_finds_a_closed_bus(operator: Operator, operated: FakeHost) -> None:
    await operated.bus.close()
    diagnosis = await operator.doctor()
    assert diagnosis.worst == "fail"
    assert {check.name for check in diagnosis.checks if check.status == "fail"} == {"broker", "dead letters"}
