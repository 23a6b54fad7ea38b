"""Letters that are steps of turns: stalled, mended, sent on; too late; begun anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from core.test_agent_on_the_bus import Town, Worker
from letters.scene import done

from rockbot.context import Context
from rockbot.errors import PermanentFailure
from rockbot.events import AgentResponse, AgentTask, Event, ToolInvoke
from rockbot.handler import CallNext
from rockbot.letters.models import Edit, LetterFilter, Progress, ReplayOptions
from rockbot.letters.service import LetterService
from rockbot.operators.faults import InvalidRequest
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import Door
from rockbot_messaging.subscriptions import WatchSubscription
from rockbot_messaging.testing import FakeClock, SequenceIds
from rockbot_messaging.verdicts import Ack, Verdict

QUEUE = "tools.desk"


class Clumsy(Worker):
    """Its tool fails until it is mended, or until it is asked in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.mended = False
        self.tool_calls: list[tuple[str, Any]] = []

    async def act(self, event: Event, context: Context, call_next: CallNext) -> None:
        if isinstance(event, ToolInvoke):
            if not self.mended and not event.arguments.get("mended"):
                raise PermanentFailure("the tool is out of order")
            self.tool_calls.append((context.envelope.message_id, event.arguments))
        await super().act(event, context, call_next)


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    clock = FakeClock()

    def make() -> SqliteStateStore:
        return SqliteStateStore(tmp_path / "state.db", clock)

    store = make()
    await store.open()
    made = Town(store, clock, make)
    await made.open()
    yield made
    for host in made.hosts:
        await host.close()
    await made.client.close()
    await store.close()


def _desk(town: Town, store: Any = None) -> LetterService:
    async def no_nap(seconds: float) -> None:
        town.clock.advance(seconds)

    return LetterService(
        letters=town.client.dead_letters,
        publisher=town.client.publisher,
        store=store or town.store,
        clock=town.clock,
        ids=SequenceIds(99),
        owner="test",
        namespace="rockbot",
        source="test",
        sleep=no_nap,
    )


async def _stalled(town: Town, worker: Clumsy, **fields: Any) -> str:
    """A turn whose tool call is a dead letter; that letter's id."""
    await town.host(worker.plugin)
    await town.say("use it", id="t", **fields)
    (letter,) = await town.letters(QUEUE)
    await town.until_status("t", "stalled")
    return letter.id  # type: ignore[no-any-return]


async def _replay(desk: LetterService, **options: Any) -> Progress:
    return await done(desk.replay(LetterFilter(queue=QUEUE), ReplayOptions(**options), actor="me"))


async def test_a_tool_that_is_mended_answers_after_a_replay_and_no_finished_step_is_repeated(town: Town) -> None:
    worker = Clumsy()
    letter = await _stalled(town, worker, conversation_id="talk")
    before = list(worker.calls)
    desk = _desk(town)
    view = await desk.letter(QUEUE, letter)
    assert view.turn
    assert (view.turn.task_id, view.turn.conversation_id) == ("t", "talk")
    assert (view.turn.agent, view.turn.state, view.turn.ended) == ("assistant", "stalled", False)
    town.clock.advance(86_400)
    worker.mended = True
    assert (await _replay(desk)).worked == 1
    (response,) = await town.answered(1)
    assert (response.status, response.output, response.tool_calls) == ("completed", "you said 42", 1)
    assert worker.calls[: len(before)] == before
    assert len(worker.calls) == len(set(worker.calls)) == 3
    assert [call for call, _ in worker.tool_calls] == [letter]


async def test_a_call_that_is_mended_instead_of_the_tool_resumes_the_turn_as_well(town: Town) -> None:
    worker = Clumsy()
    letter = await _stalled(town, worker)
    await _desk(town).edit(QUEUE, letter, Edit(body='{"tool": "add", "arguments": {"mended": true}}'), actor="me")
    (response,) = await town.answered(1)
    assert response.status == "completed"
    assert worker.tool_calls == [(letter, {"mended": True})]


async def _ended(town: Town, worker: Clumsy, **fields: Any) -> str:
    letter = await _stalled(town, worker, **fields)
    town.clock.advance(8 * 86_400)
    await town.hosts[0]._sweeper.run_once()
    await town.until_status("t", "failed")
    assert (await town.answered(1))[0].status == "failed"
    return letter


async def test_a_step_whose_turn_has_ended_is_not_sent_on_and_the_text_names_the_way_out(town: Town) -> None:
    worker = Clumsy()
    letter = await _ended(town, worker)
    worker.mended = True
    desk = _desk(town)
    last = await _replay(desk)
    assert (last.worked, last.ended_turns, last.refusals) == (0, 1, 1)
    assert last.refused[0][0] == letter
    assert "has ended: failed" in last.refused[0][1]
    assert "restart_turn" in last.refused[0][1]
    with pytest.raises(InvalidRequest, match="restart_turn"):
        await desk.edit(QUEUE, letter, Edit(body='{"tool": "add"}'), actor="me")
    view = await desk.letter(QUEUE, letter)
    assert view.turn
    assert view.turn.ended
    assert len(await town.letters(QUEUE)) == 1
    assert worker.tool_calls == []


async def test_its_task_is_begun_anew_when_asked_and_the_letter_is_put_away(town: Town) -> None:
    worker = Clumsy()
    letter = await _ended(town, worker, conversation_id="talk", reply_to=town.address, correlation_id="c-7")
    worker.mended = True
    desk = _desk(town)
    told = await _replay(desk, restart_turn=True, dry_run=True)
    assert (told.worked, len(town.answers), len(await town.letters(QUEUE))) == (1, 1, 1)
    last = await _replay(desk, restart_turn=True)
    assert (last.worked, last.ended_turns, last.refusals) == (1, 0, 0)
    _, anew = await town.answered(2)
    assert (anew.status, anew.output, anew.conversation_id) == ("completed", "you said 42", "talk")
    assert anew.task_id != "t"
    assert town.answers[1][0].correlation_id == "c-7"
    put_away = await desk.letter("discarded", letter)
    assert anew.task_id in put_away.discarded_reason
    (entry,) = await desk.audit()
    assert (entry.action, entry.count, entry.letters) == ("restart-turn", 1, (letter,))
    # Killed between publishing and putting away, the letter is still there; begun again, the task is the same one.
    await done(desk.restore(LetterFilter(), actor="me"))
    assert (await _replay(_desk(town), restart_turn=True)).worked == 1
    await town.say("still there?")
    await town.answered(3)
    assert len(town.answers) == 3


# -- delegated tasks: their messages name the root task


async def _delegated(town: Town, worker: Clumsy, *names: str, **fields: Any) -> str:
    """A root task that is answered, and tasks under it in one conversation, the last of which stalls; its letter's id."""
    worker.mended = True
    await town.host(worker.plugin)
    await town.say("use it", id="root", conversation_id="talk")
    await town.answered(1)
    for count, name in enumerate(names, 2):
        worker.mended = name != names[-1]
        await town.say("use it", id=name, conversation_id="work", root_task_id="root", **fields)
        if worker.mended:
            await town.answered(count)
    (letter,) = await town.letters(QUEUE)
    await town.until_status(names[-1], "stalled")
    assert letter.envelope.root_task_id == "root"
    return letter.id  # type: ignore[no-any-return]


@pytest.mark.parametrize("names", [("child",), ("first", "second", "child")])
async def test_a_step_of_a_delegated_task_belongs_to_the_turn_of_that_task(town: Town, names: tuple[str, ...]) -> None:
    worker = Clumsy()
    letter = await _delegated(town, worker, *names)
    desk = _desk(town)
    turn = (await desk.letter(QUEUE, letter)).turn
    assert turn
    assert (turn.task_id, turn.conversation_id, turn.state) == ("child", "work", "stalled")
    worker.mended = True
    assert (await _replay(desk)).worked == 1
    *_, response = await town.answered(1 + len(names))
    assert (response.task_id, response.status, response.output) == ("child", "completed", "you said 42")


@pytest.mark.parametrize("names", [("child",), ("first", "child")])
async def test_of_a_delegated_task_that_ended_that_task_is_begun_anew_and_not_the_root(
    town: Town, names: tuple[str, ...]
) -> None:
    worker = Clumsy()
    await _delegated(town, worker, *names)
    town.clock.advance(8 * 86_400)
    await town.hosts[0]._sweeper.run_once()
    await town.until_status("child", "failed")
    worker.mended = True
    desk = _desk(town)
    last = await _replay(desk)
    assert "its turn (task child) has ended: failed" in last.refused[0][1]
    assert (await _replay(desk, restart_turn=True)).worked == 1
    *_, (envelope, response) = await _envelopes(town, 2 + len(names))
    assert (response.status, response.output, response.conversation_id) == ("completed", "you said 42", "work")
    assert response.task_id not in ("root", "child")
    assert envelope.root_task_id == "root"
    assert [each.task_id for _, each in town.answers].count("root") == 1


async def test_a_delegated_task_that_nobody_accepted_is_no_step_of_its_root(town: Town) -> None:
    worker = Clumsy()
    worker.mended = True
    await town.host(worker.plugin)
    await town.say("use it", id="root", conversation_id="talk")
    await town.answered(1)
    await town.say("use it", id="child", conversation_id="x" * 600, root_task_id="root")
    (letter,) = await town.letters("agent.assistant")
    assert (await _desk(town).letter("agent.assistant", letter.id)).turn is None


async def test_a_task_is_begun_anew_as_it_was_asked_for(town: Town) -> None:
    worker = Clumsy()
    await town.host(worker.plugin)
    schema = {"type": "object"}
    task = AgentTask(input="use it", user="ann", mode="queue", output_schema=schema, timeout_seconds=60)
    await town.client.publisher.publish(
        MessageEnvelope(topic="agent.task.assistant", body=task.to_body(), message_id="t", type=""), door=Door.PUBLIC
    )
    await town.letters(QUEUE)
    await town.until_status("t", "stalled")
    town.clock.advance(8 * 86_400)
    await town.hosts[0]._sweeper.run_once()
    await town.until_status("t", "failed")
    heard: list[AgentTask] = []

    async def hear(envelope: MessageEnvelope) -> Verdict:
        heard.append(AgentTask.model_validate_json(envelope.body))
        return Ack()

    await town.client.subscriber.subscribe(WatchSubscription(name="tasks", patterns=("agent.task.*",)), hear)
    assert (await _replay(_desk(town), restart_turn=True)).worked == 1
    assert heard == [task.model_copy(update={"input": task.parts})]


async def _envelopes(town: Town, count: int) -> list[tuple[MessageEnvelope, AgentResponse]]:
    await town.answered(count)
    return town.answers


async def test_a_store_that_does_not_know_the_turn_says_nothing_and_the_step_is_sent_on(town: Town) -> None:
    from rockbot.state.memory import MemoryStateStore

    worker = Clumsy()
    letter = await _ended(town, worker)
    worker.mended = True
    elsewhere = MemoryStateStore(town.clock)
    await elsewhere.open()
    desk = _desk(town, elsewhere)
    assert (await desk.letter(QUEUE, letter)).turn is None
    assert (await _replay(desk)).worked == 1
    await elsewhere.close()


async def test_a_dead_task_is_sent_on_whatever_became_of_it(town: Town) -> None:
    """A task is no step: its agent knows by itself what it has handled."""
    await town.host(Clumsy().plugin)
    await town.say("hi", id="bad", reply_to="rockbot.agent.assistant")
    await town.letters("agent.assistant")
    desk = _desk(town)
    view = await desk.letter("agent.assistant", "bad")
    assert view.turn is None
    sent = await desk.edit("agent.assistant", "bad", Edit(reply_to="", careful=True), actor="me")
    assert sent.message_id == "bad"
    (response,) = await town.answered(1)
    assert (response.task_id, response.status) == ("bad", "completed")
    page = await desk.find(LetterFilter(task="bad", queue="discarded"))
    assert [row.type or row.topic for row in page.letters] == ["agent.task.assistant"]
