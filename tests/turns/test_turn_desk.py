"""Turns as people look at them: their story, what they wait for, going on from a step, and resuming what stalled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from core.town import Town, Worker, opened_town
from turns.desks import letters_of

from rockbot.events import AgentTask
from rockbot.machines.turn import TurnMachine
from rockbot.operators.faults import ConversationNotFound, InvalidRequest, TaskNotFound
from rockbot.state.keys import conversation_key
from rockbot.turns.models import TurnStory
from rockbot.turns.service import TurnService
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import Door
from rockbot_messaging.testing import SequenceIds


@pytest.fixture(params=["memory", "sqlite"])
async def town(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Town]:
    async with opened_town(request.param, tmp_path) as made:
        yield made


def desk(town: Town) -> TurnService:
    return TurnService(town.store, ids=SequenceIds(91), letters=letters_of(town))


def kinds(story: TurnStory) -> list[str]:
    return [step.kind for step in story.steps]


async def ask(town: Town, text: str, id: str, conversation: str = "talk") -> None:
    await town.say(text, id=id, conversation_id=conversation)


async def test_a_story_tells_every_step_with_its_time_its_tokens_and_its_message(town: Town) -> None:
    worker = Worker()
    await town.host(worker.plugin)
    await ask(town, "use it", "t1")
    await town.answered(1)
    story = await desk(town).story("t1")
    assert (story.status, story.state, story.conversation_id, story.agent) == (
        "completed",
        "completed",
        "talk",
        "assistant",
    )
    assert (story.input, story.output) == ("use it", "you said 42")
    assert (story.model_calls, story.tool_calls, story.waits_for) == (2, 1, ())
    assert kinds(story) == [
        "accepted",
        "model called",
        "model replied",
        "tools called",
        "tool answered",
        "model called",
        "model replied",
        "completed",
    ]
    by_kind = {step.kind: step for step in story.steps}
    assert {by_kind["model replied"].id, by_kind["tool answered"].id} <= set(worker.calls)
    assert by_kind["model replied"].usage is not None
    assert all(step.took_ms is not None for step in story.steps if step.kind in ("model replied", "tool answered"))
    assert [step.version for step in story.steps] == sorted(step.version for step in story.steps)


async def test_a_task_of_one_conversation_is_told_without_the_others(town: Town) -> None:
    await town.host(Worker().plugin)
    for number in range(3):
        await ask(town, f"hello {number}", f"t{number}")
        await town.answered(number + 1)
    story = await desk(town).story("t1")
    assert (story.input, story.output) == ("hello 1", "you said hello 1")
    assert kinds(story) == ["accepted", "model called", "model replied", "completed"]


async def test_who_waits_in_a_queue_behind_another_is_told_behind_whom(town: Town) -> None:
    worker = Worker()
    worker.broken = True
    await town.host(worker.plugin)
    await ask(town, "first", "t1")
    await town.until_status("t1", "stalled")
    event = AgentTask(input="second", mode="queue")
    envelope = MessageEnvelope(
        topic="agent.task.assistant",
        body=event.to_body(),
        message_id="t2",
        type=AgentTask.type_name,
        conversation_id="talk",
    )
    await town.client.publisher.publish(envelope, door=Door.PUBLIC)
    await town.until_status("t2", "accepted")
    story = await desk(town).story("t2")
    assert (story.state, [(hang.kind, hang.text) for hang in story.waits_for]) == (
        "received",
        [("queue", "waits for the turn of task t1")],
    )


async def test_a_stalled_turn_says_in_which_queue_and_goes_on_when_resumed(town: Town) -> None:
    worker = Worker()
    worker.broken = True
    await town.host(worker.plugin)
    await ask(town, "hello", "t1")
    await town.until_status("t1", "stalled")
    operator = desk(town)
    story = await operator.story("t1")
    (hang,) = story.waits_for
    assert (story.state, hang.kind, hang.command) == ("stalled", "dead_letter", "rockbot turn resume t1")
    assert "llm.scripted.interactive" in hang.text
    assert "no such model" in hang.text
    (letter,) = await town.letters("llm.scripted.interactive")
    assert hang.id == letter.id

    tried = await operator.resume("t1", actor="tester", dry_run=True)
    assert (tried.worked, tried.dry_run, await town.status("t1")) == (1, True, "stalled")
    worker.broken = False
    done = await operator.resume("t1", actor="tester")
    assert (done.done, done.worked) == (True, 1)
    (response,) = await town.answered(1)
    assert response.output == "you said hello"
    assert kinds(await operator.story("t1"))[2:] == ["stalled", "model replied", "resumed", "completed"]
    with pytest.raises(InvalidRequest, match="has ended"):
        await operator.resume("t1", actor="tester")


async def test_a_fork_goes_on_from_any_step_and_leaves_its_source_alone(town: Town) -> None:
    worker = Worker()
    await town.host(worker.plugin)
    await ask(town, "use it", "t1")
    await town.answered(1)
    await ask(town, "and then", "t2")
    await town.answered(2)
    operator = desk(town)
    before = await town.store.read(conversation_key("default", "talk"))
    first = await operator.story("t1")
    forked = await operator.fork("talk", at=first.steps[-1].version)
    assert (forked.source, forked.agent, forked.messages) == ("talk", "assistant", 4)
    seen: list[list[str]] = []
    model = worker.model

    def noting(request: Any) -> Any:
        seen.append([message.text or "(results)" for message in request.messages])
        return model(request)

    worker.model = noting
    await ask(town, "another way", "t3", conversation=forked.conversation_id)
    responses = await town.answered(3)
    assert responses[-1].output == "you said another way"
    assert seen == [["use it", "(results)", "(results)", "you said 42", "another way"]]
    assert await town.store.read(conversation_key("default", "talk")) == before


async def test_a_fork_in_the_middle_of_a_turn_answers_its_open_calls_and_can_be_named(town: Town) -> None:
    await town.host(Worker().plugin)
    await ask(town, "use it", "t1")
    await town.answered(1)
    operator = desk(town)
    story = await operator.story("t1")
    called = next(step for step in story.steps if step.kind == "tools called")
    forked = await operator.fork("talk", at=called.version, name="other")
    assert (forked.conversation_id, forked.version, forked.messages) == ("other", called.version, 3)
    machine = TurnMachine("other", (), default_timeout=60)  # type: ignore[arg-type]
    (record,) = await town.store.read(conversation_key("default", "other"))
    (*_, results) = machine.evolve(machine.initial(), machine.load_record(record.value)).messages
    assert "the task ended before this call" in results.parts[0].parts[0].text  # type: ignore[union-attr]
    with pytest.raises(InvalidRequest, match="a conversation 'other' already"):
        await operator.fork("talk", name="other")


async def test_what_is_not_there_is_said_by_name(town: Town) -> None:
    await town.host(Worker().plugin)
    await ask(town, "hello", "t1")
    await town.answered(1)
    operator = desk(town)
    for wanted in (
        operator.story("nothing"),
        operator.story(""),
        operator.fork("nothing"),
        operator.fork("talk", at=99),
    ):
        with pytest.raises((ConversationNotFound, TaskNotFound), match=r"nothing|''|record 99"):
            await wanted
    with pytest.raises(TaskNotFound, match="of 'elsewhere'"):
        await operator.story("t1", tenant="elsewhere")
    with pytest.raises(InvalidRequest, match="1 to 200 printable characters"):
        await operator.fork("talk", name="\n")
