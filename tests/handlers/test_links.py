"""The two cross-cutting links: what is logged, and what deadlines do to each kind of message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rockbot.chain import Chain, Order
from rockbot.context import Context
from rockbot.errors import PermanentFailure, TemporaryFailure
from rockbot.events import (
    AgentTask,
    Event,
    JsonPart,
    LlmRequest,
    LlmResponse,
    Message,
    StepExpired,
    StepStalled,
    TimerDue,
    ToolInvoke,
    ToolResult,
)
from rockbot.handler import CallNext
from rockbot.plugins import Services
from rockbot_handlers.deadline.plugin import plugin as deadline
from rockbot_handlers.logging.plugin import plugin as logs
from rockbot_messaging.testing import FakeClock

INVOKE = ToolInvoke(tool="t", arguments={"secret": "body"}, call_id="c")


class Work:
    """The last link: does what a test tells it."""

    handles = (Event,)

    def __init__(self, act: Callable[[Event, Context], Awaitable[None]] | None = None) -> None:
        self.seen: list[Event] = []
        self._act = act

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        self.seen.append(event)
        if self._act is not None:
            await self._act(event, context)


Compose = Callable[..., Chain]


@pytest.fixture
def compose(make_services: Callable[..., Services], chain_of: Callable[..., Chain]) -> Compose:
    def build(work: Work, *plugins: Any) -> Chain:
        return chain_of(make_services(), *plugins, links=((Order.WORK, "work", work),))

    return build


async def test_a_handled_message_is_one_record_with_its_fields(
    compose: Compose, make_context: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(event: Event, context: Context) -> None:
        clock.advance(0.25)

    caplog.set_level(logging.INFO)
    await compose(Work(act), logs).run(INVOKE, make_context(INVOKE, "tool.invoke.x", attempt=3))
    (record,) = caplog.records
    assert (record.levelname, record.message, record.name) == ("INFO", "message handled", "rockbot.messages")
    fields = {
        "event": "rockbot.tool.invoke",
        "message_id": "11111111-1111-5111-8111-111111111111",
        "conversation": "conversation-1",
        "task": "task-1",
        "topic": "tool.invoke.x",
        "attempt": 3,
        "outcome": "ok",
        "duration_ms": 250.0,
        "emitted": 0,
    }
    assert {name: getattr(record, name) for name in fields} == fields


async def test_bodies_are_logged_at_debug_only(
    compose: Compose, make_context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    chain = compose(Work(), logs)
    for level in (logging.INFO, logging.DEBUG):
        caplog.clear()
        caplog.set_level(level)
        await chain.run(INVOKE, make_context(INVOKE, "tool.invoke.x"))
        told = [record for record in caplog.records if "secret" in str(record.__dict__)]
        assert [record.levelno for record in told] == ([logging.DEBUG] if level == logging.DEBUG else [])


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
async def test_a_failure_is_told_once_in_a_line_and_raised_again(
    compose: Compose, make_context: Any, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    error = TemporaryFailure("no\nluck")

    async def act(event: Event, context: Context) -> None:
        raise error

    caplog.set_level(level)
    with pytest.raises(TemporaryFailure) as caught:
        await compose(Work(act), logs).run(INVOKE, make_context(INVOKE, "tool.invoke.x"))
    assert caught.value is error
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    told: Any = record
    assert (record.message, told.outcome, told.error) == ("message failed", "TemporaryFailure", "no luck")
    assert bool(record.exc_info) is (level == logging.DEBUG)


@pytest.mark.parametrize(
    ("error", "told"),
    [(KeyError("stock"), True), (TemporaryFailure("later"), False), (PermanentFailure("never"), False)],
)
async def test_an_unforeseen_error_is_told_with_the_place_that_raised_it(
    compose: Compose, make_context: Any, caplog: pytest.LogCaptureFixture, error: Exception, told: bool
) -> None:
    async def act(event: Event, context: Context) -> None:
        raise error

    caplog.set_level(logging.INFO)
    with pytest.raises(type(error)):
        await compose(Work(act), logs).run(INVOKE, make_context(INVOKE, "tool.invoke.x"))
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    place: Any = record.__dict__["raised_at"]
    assert bool(place) is told
    assert not told or (Path(__file__).name in place and place.endswith("act"))


async def test_waiting_is_no_failure(compose: Compose, make_context: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def act(event: Event, context: Context) -> None:
        raise TemporaryFailure("throttled", after=9, counted=False)

    caplog.set_level(logging.INFO)
    with pytest.raises(TemporaryFailure):
        await compose(Work(act), logs).run(INVOKE, make_context(INVOKE, "tool.invoke.x"))
    (record,) = caplog.records
    told: Any = record
    assert (record.levelname, record.message, told.after) == ("INFO", "message handed back", 9)


async def test_a_cancellation_is_told_and_stays_one(
    compose: Compose, make_context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(event: Event, context: Context) -> None:
        raise asyncio.CancelledError

    caplog.set_level(logging.INFO)
    with pytest.raises(asyncio.CancelledError):
        await compose(Work(act), logs).run(INVOKE, make_context(INVOKE, "tool.invoke.x"))
    assert [record.message for record in caplog.records] == ["message cancelled"]


COMMANDS = [INVOKE, LlmRequest(model="scripted/demo", messages=())]


@pytest.mark.parametrize("event", COMMANDS)
async def test_a_command_after_its_deadline_is_not_begun_and_its_turn_is_told(
    compose: Compose, make_context: Any, event: Event
) -> None:
    work = Work()
    context = make_context(event, "some.command", seconds=0)
    await compose(work, deadline).run(event, context)
    assert work.seen == []
    (emission,) = context.emissions
    assert StepExpired.model_validate_json(emission.envelope.body).message_id == context.envelope.message_id
    assert (emission.envelope.type, emission.envelope.topic) == (StepExpired.type_name, "agent.step.assistant")
    assert emission.envelope.return_address.token == "opaque"


@pytest.mark.parametrize("event", COMMANDS)
async def test_a_late_command_that_nobody_waits_for_is_a_dead_letter(
    compose: Compose, make_context: Any, event: Event
) -> None:
    with pytest.raises(PermanentFailure, match="deadline passed"):
        await compose(Work(), deadline).run(event, make_context(event, "some.command", seconds=-5, answer_to=None))


ANSWERS = [
    AgentTask(input="x"),
    StepStalled(message_id="m", queue="q", reason="r"),
    StepExpired(message_id="m"),
    TimerDue(timer_id="t", purpose="p", due_ms=1),
    ToolResult(parts=(JsonPart(data=1),)),
    LlmResponse(message=Message(role="assistant", parts=())),
]


@pytest.mark.parametrize("event", ANSWERS)
async def test_tasks_and_answers_reach_their_agent_however_late(
    compose: Compose, make_context: Any, event: Event
) -> None:
    work = Work()
    context = make_context(event, "agent.step.assistant", seconds=-5)
    await compose(work, deadline).run(event, context)
    assert (work.seen, context.emissions) == ([event], [])


async def test_whatever_arrives_at_its_own_return_address_is_an_answer(compose: Compose, make_context: Any) -> None:
    work = Work()
    context = make_context(INVOKE, "tool.result.x", answer_to=("tool.result.x", "t"), seconds=-5)
    await compose(work, deadline).run(INVOKE, context)
    assert work.seen == [INVOKE]


@pytest.mark.parametrize("seconds", [None, 60])
async def test_a_command_in_time_is_handled(compose: Compose, make_context: Any, seconds: float | None) -> None:
    work = Work()
    context = make_context(INVOKE, "tool.invoke.x", seconds=seconds)
    await compose(work, deadline).run(INVOKE, context)
    assert (work.seen, context.emissions) == ([INVOKE], [])


async def test_a_command_is_stopped_at_its_deadline_and_sends_nothing_of_its_own(
    compose: Compose, make_context: Any
) -> None:
    stopped = []

    async def act(event: Event, context: Context) -> None:
        context.answer(ToolResult.failure(INVOKE, "half done"))
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(event)

    context = make_context(INVOKE, "tool.invoke.x", seconds=0.02)
    async with asyncio.timeout(60):
        await compose(Work(act), deadline).run(INVOKE, context)
    assert stopped == [INVOKE]
    assert [emission.envelope.type for emission in context.emissions] == [StepExpired.type_name]


async def test_a_command_stopped_at_its_deadline_with_nobody_waiting_is_a_dead_letter(
    compose: Compose, make_context: Any
) -> None:
    async def act(event: Event, context: Context) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(60):
        with pytest.raises(PermanentFailure, match="deadline passed while"):
            await compose(Work(act), deadline).run(
                INVOKE, make_context(INVOKE, "tool.invoke.x", seconds=0.02, answer_to=None)
            )


async def test_a_handlers_own_timeout_is_not_taken_for_the_deadline(compose: Compose, make_context: Any) -> None:
    async def act(event: Event, context: Context) -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await compose(Work(act), deadline).run(INVOKE, make_context(INVOKE, "tool.invoke.x", seconds=60))


async def test_an_agents_step_is_never_cut_short(compose: Compose, make_context: Any) -> None:
    ended = []

    async def act(event: Event, context: Context) -> None:
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.03, done.set)
        await done.wait()
        ended.append(event)

    event = AgentTask(input="x")
    await compose(Work(act), deadline).run(event, make_context(event, "agent.task.assistant", seconds=0.01))
    assert ended == [event]


def test_logging_stands_outside_deadlines_and_both_outside_the_work(compose: Compose) -> None:
    order = dict(compose(Work(), deadline, logs).describe())
    assert order[ToolInvoke.type_name] == ["logging", "deadline", "work"]
