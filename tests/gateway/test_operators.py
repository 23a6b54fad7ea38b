"""What an operator promises, over the bus and over the socket alike."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from gateway.fake_agent import FakeHost

from rockbot.events.tasks import AgentResponse, AgentStatus
from rockbot.letters.models import LetterFilter
from rockbot.operator import AskEvent, Operator
from rockbot.operators.bus import BusOperator
from rockbot.operators.faults import InvalidRequest, OperatorError, TimedOut
from rockbot.operators.models import ReplyPiece
from rockbot.state.ports import StateUnavailable
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.errors import BodyTooLarge, InvalidTopic, Unroutable

TASK = "agent.task.assistant"


async def collect(operator: Operator, text: str, **options: Any) -> list[AskEvent]:
    async with asyncio.timeout(60):
        return [event async for event in operator.ask("assistant", text, **options)]


async def dead(operated: FakeHost, operator: Operator, body: bytes = b"not json") -> str:
    """The id of a message that has become a letter."""
    message = await operator.publish(TASK, body)
    await operated.until_dead(message.message_id)
    return message.message_id


async def test_a_question_gives_its_steps_and_then_its_answer(operator: Operator) -> None:
    events = await collect(operator, "hello", timeout=60)
    assert [event.kind for event in events if isinstance(event, AgentStatus)] == ["accepted", "tool_call"]
    answer = events[-1]
    assert isinstance(answer, AgentResponse)
    assert (answer.status, answer.output) == ("completed", "HELLO")


@pytest.mark.parametrize("conversation_id", [None, "a talk/1"])
async def test_what_the_model_says_is_told_on_request_and_only_then(
    operator: Operator, conversation_id: str | None
) -> None:
    events = await collect(operator, "speak", timeout=60, stream=True, conversation_id=conversation_id)
    pieces = [event for event in events if isinstance(event, ReplyPiece)]
    assert [(piece.text, piece.reset, piece.done) for piece in pieces] == [
        ("SO", False, False),
        ("METHING ELSE", False, False),
        ("SPE", True, False),
        ("AK", False, True),
    ]
    assert isinstance(events[-1], AgentResponse)
    quiet = await collect(operator, "speak", timeout=60)
    assert not any(isinstance(event, ReplyPiece) for event in quiet)


async def test_steps_of_other_tasks_are_not_shown(operator: Operator) -> None:
    events = await collect(operator, "hello", timeout=60)
    assert len({event.task_id for event in events}) == 1


async def test_two_questions_at_the_same_time_do_not_mix(operator: Operator) -> None:
    one, two = await asyncio.gather(collect(operator, "one", timeout=60), collect(operator, "two", timeout=60))
    assert [events[-1].output for events in (one, two) if isinstance(events[-1], AgentResponse)] == ["ONE", "TWO"]
    assert {event.task_id for event in one}.isdisjoint(event.task_id for event in two)


async def test_a_conversation_is_carried_in_the_message(operator: Operator, operated: FakeHost) -> None:
    events = await collect(operator, "hello", conversation_id="talk-1", timeout=60)
    assert events[-1].conversation_id == "talk-1"
    assert operated.agent.seen[-1].conversation_id == "talk-1"


async def test_an_unanswered_question_says_what_to_look_at(operator: Operator) -> None:
    with pytest.raises(TimedOut, match=r"no answer from agent 'assistant' within 0\.05 s .*rockbot dlq list.*doctor"):
        await collect(operator, "silent", timeout=0.05)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("stall", "stalled", "waits in tools.dlq: no disk. Mend it"),
        ("refund", "approval", "it waits for a person: `rockbot approvals list`"),
    ],
)
async def test_a_question_that_stands_still_says_why_when_time_is_over(
    operator: Operator, text: str, kind: str, said: str
) -> None:
    told: list[AskEvent] = []
    for seconds in (0.2, 1, 5, 25):
        with pytest.raises(TimedOut) as over:
            async for event in operator.ask("assistant", text, timeout=seconds):
                told.append(event)  # noqa: PERF401 - what came before the end counts
        if any(isinstance(event, AgentStatus) and event.kind == kind for event in told):
            break  # else time was over before the step could be told of
    assert said in str(over.value)


async def test_a_question_to_nobody_is_kept_and_says_where(operator: Operator) -> None:
    with pytest.raises(Unroutable, match=r"no running host has an agent 'nobody'.*dlq show unrouted (\S+)") as caught:
        async for _ in operator.ask("nobody", "hello", timeout=60):
            pass
    letter_id = str(caught.value).rpartition(" ")[2]
    assert (await operator.dead_letters.letter("unrouted", letter_id)).topic == "agent.task.nobody"


async def test_a_question_to_an_impossible_name_is_refused(operator: Operator, operated: FakeHost) -> None:
    with pytest.raises(InvalidTopic, match="not a legal topic"):
        async for _ in operator.ask("a b", "hello", timeout=60):
            pass
    with pytest.raises(InvalidRequest, match="no task"):
        await collect(operator, "", timeout=60)
    assert operated.agent.seen == []
    assert operated.watchers() == []


async def test_a_reply_queue_ends_with_its_question(operator: Operator, operated: FakeHost) -> None:
    await collect(operator, "hello", timeout=60)
    with pytest.raises(TimedOut):
        await collect(operator, "silent", timeout=0.05)
    stream: Any = operator.ask("assistant", "stall", timeout=60)
    async with aclosing(stream):
        await anext(stream)
        assert len(operated.watchers()) == 1
    async with asyncio.timeout(60):
        while operated.watchers():
            await asyncio.sleep(0)


async def test_a_published_message_arrives_as_it_was_given(operator: Operator, operated: FakeHost) -> None:
    message = await operator.publish(
        TASK, b'{"input": "x"}', type="rockbot.agent.task", correlation_id="c", conversation_id="t", headers={"k": "v"}
    )
    async with asyncio.timeout(60):
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
    letter = await operator.dead_letters.letter("agent.assistant", await dead(operated, operator, body))
    assert letter.body_bytes == body


async def test_a_message_nobody_receives_is_an_error_that_says_where_it_was_kept(operator: Operator) -> None:
    with pytest.raises(Unroutable, match=r"nobody receives topic 'no\.such'.*rockbot dlq show unrouted \S{36}$"):
        await operator.publish("no.such", b"{}")
    page = await operator.dead_letters.find(LetterFilter(queue="unrouted"))
    assert [letter.topic for letter in page.letters] == ["no.such"]


async def test_bad_topics_headers_and_sizes_are_refused(operator: Operator, operated: FakeHost) -> None:
    with pytest.raises(InvalidTopic):
        await operator.publish("no topic", b"{}")
    with pytest.raises(InvalidRequest, match="'x-death' cannot be set"):
        await operator.publish(TASK, b"{}", headers={"x-death": "1"})
    with pytest.raises(BodyTooLarge):
        await operator.publish(TASK, b" " * ((16 << 20) + 1))
    assert operated.agent.seen == []


async def test_the_pipeline_is_told(operator: Operator) -> None:
    pipeline = await operator.pipeline()
    assert pipeline.chain[0].links == ("logging", "agent")
    [subscription] = pipeline.subscriptions
    assert (subscription.name, subscription.dead_letters) == ("agent.assistant", "rockbot.agent.assistant.dlq")
    assert subscription.retry.startswith("1 attempt")
    assert "hand-backs" in subscription.retry_table[-1]


async def test_the_doctor_warns_of_waiting_letters(operator: Operator, operated: FakeHost) -> None:
    assert (await operator.doctor()).worst == "ok"
    await dead(operated, operator)
    diagnosis = await operator.doctor()
    [warning] = [check for check in diagnosis.checks if check.status != "ok"]
    assert (diagnosis.worst, warning.advice) == ("warn", "rockbot dlq list agent.assistant")
    assert warning.detail.startswith("1 in rockbot.agent.assistant.dlq, 1 in the last hour, the oldest since 2")


async def test_the_doctor_finds_a_closed_bus(operator: Operator, operated: FakeHost) -> None:
    await operated.bus.close()
    diagnosis = await operator.doctor()
    assert diagnosis.worst == "fail"
    assert {check.name for check in diagnosis.checks if check.status == "fail"} == {"broker", "dead letters"}


async def test_an_operator_without_a_desk_says_why(operated: FakeHost) -> None:
    bare = BusOperator(operated.bus, clock=SystemClock(), ids=RandomIds())
    with pytest.raises(OperatorError, match="opened without dead letters"):
        _ = bare.dead_letters
    broken = BusOperator(
        operated.bus, clock=SystemClock(), ids=RandomIds(), dead_letters=StateUnavailable("the disk is gone")
    )
    with pytest.raises(StateUnavailable, match="the disk is gone"):
        _ = broken.dead_letters
    await dead(operated, operated.operator)
    for operator in (bare, broken):
        [warning] = [check for check in (await operator.doctor()).checks if check.status == "warn"]
        assert warning.detail == "1 in rockbot.agent.assistant.dlq"
