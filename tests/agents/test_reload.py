"""Agents change while a host runs: new ones are received, changed ones count for new turns, removed ones finish theirs."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from core.links import Link

from rockbot.agents.roster import Roster
from rockbot.chain import Order
from rockbot.container import HostContainer, compose
from rockbot.context import Context
from rockbot.events import (
    AgentResponse,
    AgentTask,
    Event,
    LlmRequest,
    LlmResponse,
    Message,
    TextPart,
    ToolCallPart,
)
from rockbot.handler import CallNext
from rockbot.operators.agent_checks import agents_probe
from rockbot.plugins import Contribution, Services
from rockbot.plugins import Link as Registration
from rockbot.settings import Settings, load
from rockbot.signals import reload_on_hangup
from rockbot.state.keys import agent_memory_key
from rockbot.state.sqlite import SqliteStateStore
from rockbot_handlers.agent.plugin import plugin as agent_plugin
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.subscriptions import WatchSubscription, WorkSubscription
from rockbot_messaging.testing import FakeClock, SequenceIds
from rockbot_messaging.testing.harness import buried
from rockbot_messaging.verdicts import Ack, Verdict


class Office:
    """One broker, one store, hosts over files of agents, a model that can be held back and says what it was told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.broker = MemoryBroker(namespace="rockbot", clock=self.clock, ids=SequenceIds(1))
        self.client = MemoryBus(broker=self.broker)
        self.store = SqliteStateStore(Path("state.db"), self.clock)
        self.go = asyncio.Event()
        self.go.set()
        self._held = asyncio.Event()
        self.answers: dict[str, AgentResponse] = {}
        self.topics: dict[str, str] = {}
        self.requests: list[LlmRequest] = []
        self._changed = asyncio.Condition()
        self._hosts: list[HostContainer] = []

    async def model(self, event: Event, context: Context, call_next: CallNext) -> None:
        assert isinstance(event, LlmRequest)
        self._held.set()
        await self.go.wait()
        self.requests.append(event)
        skill = next((tool for tool in event.tools if tool.name == "read_skill"), None)
        last = event.messages[-1]
        if skill is not None and last.text:
            call = ToolCallPart(call_id="c", tool="read_skill", arguments={"name": last.text})
            context.answer(LlmResponse(message=Message(role="assistant", parts=(call,)), stop_reason="tool_use"))
            return
        read = "" if last.text else last.parts[0].parts[0].text  # type: ignore[union-attr]
        context.answer(LlmResponse(message=Message(role="assistant", parts=(TextPart(text=event.system + read),))))

    def _worker(self, services: Services) -> Contribution:
        return Contribution(
            links=(Registration(Order.WORK, "model", Link(self.model, LlmRequest)),),
            subscriptions=(
                WorkSubscription(name="llm.scripted.interactive", patterns=("llm.request.scripted.interactive",)),
            ),
        )

    async def open(self) -> None:
        await self.client.open()
        await self.store.open()
        watch = WatchSubscription(name="client", patterns=("agent.response.*", "user.reply.#"))
        await self.client.subscriber.subscribe(watch, self._see)

    async def _see(self, envelope: MessageEnvelope) -> Verdict:
        async with self._changed:
            answer = AgentResponse.model_validate_json(envelope.body)
            self.answers[answer.task_id] = answer
            self.topics[answer.task_id] = envelope.topic
            self._changed.notify_all()
        return Ack()

    async def start(self) -> HostContainer:
        made = compose(
            load(),
            bus=MemoryBus(broker=self.broker),
            store=SqliteStateStore(Path("state.db"), self.clock),
            clock=self.clock,
            ids=SequenceIds(2 + len(self._hosts)),
            plugins=[("agent", agent_plugin), ("worker", self._worker)],
        )
        self._hosts.append(made)
        await made.host().start()
        return made

    async def stop(self, made: HostContainer) -> None:
        await made.host().close()
        self._hosts.remove(made)

    async def ask(self, agent: str, text: str, id: str, conversation: str | None = None) -> None:
        envelope = MessageEnvelope(
            topic=f"agent.task.{agent}",
            body=AgentTask(input=text).to_body(),
            message_id=id,
            type=AgentTask.type_name,
            conversation_id=conversation,
        )
        await self.client.publisher.publish(envelope)

    async def write_on(self, place: str, text: str, id: str) -> None:
        """Write as a person does, through a bridge that knows no more than a topic and a text."""
        body = b'{"input": "%s"}' % text.encode()
        await self.client.publisher.publish(
            MessageEnvelope(topic=f"user.message.{place}", body=body, message_id=id, type="")
        )

    async def asked(self) -> None:
        """Return when the model has been asked."""
        async with asyncio.timeout(60):
            await self._held.wait()
        self._held.clear()

    async def answer(self, id: str) -> AgentResponse:
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: id in self.answers)
            return self.answers[id]

    async def close(self) -> None:
        for made in list(self._hosts):
            await self.stop(made)
        await self.client.close()
        await self.store.close()


@pytest.fixture
async def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Office]:
    monkeypatch.chdir(tmp_path)
    write(
        "rockbot.toml",
        "[agent_files]\nfolder = 'agents'\npoll_seconds = 0\n[host]\ndrain_seconds = 0.2\n[agents.assistant]\n",
    )
    write("agents/helper.toml", "instructions = 'one'")
    office = Office()
    await office.open()
    yield office
    await office.close()


def write(path: str, text: str) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.001)


async def test_a_changed_agent_counts_for_new_turns_and_a_running_one_keeps_its_own(office: Office) -> None:
    made = await office.start()
    office.go.clear()
    write("agents/skills/a/SKILL.md", "---\nname: a\ndescription: d\n---\nold text")
    write("agents/helper.toml", "instructions = 'one'\nskills = 'skills'")
    assert (await made.roster().reload("test")).generation == 2
    await office.ask("helper", "a", "t1")
    await office.asked()
    write("agents/skills/a/SKILL.md", "---\nname: a\ndescription: d\n---\nnew text")
    write("agents/helper.toml", "instructions = 'two'\nskills = 'skills'")
    assert (await made.roster().reload("test")).generation == 3
    office.go.set()
    await office.ask("helper", "a", "t2")
    old, new = await office.answer("t1"), await office.answer("t2")
    assert old.output.startswith("one") and old.output.endswith("old text")
    assert new.output.startswith("two") and new.output.endswith("new text")


async def test_a_new_agent_is_received_without_a_restart(office: Office) -> None:
    made = await office.start()
    write("agents/second.toml", "instructions = 'I am second'")
    broadcast = MessageEnvelope(topic="control.reload", body=b"{}", message_id="reload", type="")
    await office.client.publisher.publish(broadcast)
    await until(lambda: made.roster().status.generation == 2)
    await until(lambda: "agent.second" in made.host().consuming.names)
    await office.ask("second", "hello", "t1")
    assert (await office.answer("t1")).output == "I am second"


async def test_a_removed_agent_takes_no_new_task_and_finishes_its_turns(office: Office) -> None:
    made = await office.start()
    office.go.clear()
    await office.ask("helper", "hello", "t1")
    await office.ask("helper", "and then?", "t2", conversation="t1")
    await office.asked()
    Path("agents/helper.toml").unlink()
    await made.roster().reload("test")
    await office.ask("helper", "too late", "t3")
    refused = await office.answer("t3")
    assert refused.status == "failed" and refused.error is not None and refused.error.code == "no_agent"
    office.go.set()
    assert (await office.answer("t1")).output == "one"
    assert (await office.answer("t2")).output == "one"


async def test_turns_of_a_removed_agent_go_on_after_a_restart_and_then_nothing_is_received(office: Office) -> None:
    made = await office.start()
    office.go.clear()
    await office.ask("helper", "hello", "t1")
    await office.asked()
    await office.stop(made)
    Path("agents/helper.toml").unlink()
    office.go.set()
    made = await office.start()
    minutes_later = office.clock.now_ms() + 120_000

    def answered() -> bool:
        # What was handed back comes again; a slow machine must not run into the task's deadline.
        office.clock.advance(1 if office.clock.now_ms() < minutes_later else 0.001)
        return "t1" in office.answers

    await until(answered)
    assert office.answers["t1"].output == "one"
    await made.host().consuming.follow()
    assert "agent.helper" not in made.host().consuming.names


async def test_what_people_write_on_a_channel_is_answered_there_by_its_agent(office: Office) -> None:
    write("agents/helper.toml", "instructions = 'I am helper'\nchannels = ['web', 'telegram']")
    await office.start()
    await office.write_on("telegram.ann", "hello", "m1")
    first = await office.answer("m1")
    await office.write_on("telegram.ann", "still there?", "m2")
    await office.write_on("web.ann", "hello", "m3")
    assert {(await office.answer(each)).agent for each in ("m1", "m2", "m3")} == {"helper"}
    assert office.topics == {
        "m1": "user.reply.telegram.ann",
        "m2": "user.reply.telegram.ann",
        "m3": "user.reply.web.ann",
    }
    assert (first.conversation_id, office.answers["m3"].conversation_id) == ("telegram.ann", "web.ann")
    told = [request for request in office.requests if request.messages[-1].text == "still there?"]
    assert [message.text for message in told[0].messages if message.role == "user"] == ["hello", "still there?"]
    assert {request.user for request in office.requests} == {"telegram.ann", "web.ann"}


@pytest.mark.parametrize("account", ["a b", "x" * 65, "ü", ""])
async def test_what_is_written_where_no_answer_can_go_is_a_dead_letter_and_asks_no_model(
    office: Office, account: str
) -> None:
    write("agents/helper.toml", "channels = ['web']")
    await office.start()
    await office.broker.publish_foreign(f"user.message.web.{account}", b'{"input": "hello"}', message_id="m1")
    (letter,) = await buried(office.client, "agent.helper", 1)
    assert office.requests == []
    assert letter.failure.reason.startswith(f"there is no way back to 'web.{account}': ")


async def test_a_channel_moves_to_another_agent_and_each_message_still_has_one_answer(office: Office) -> None:
    write("agents/helper.toml", "instructions = 'I am helper'\nchannels = ['web']")
    made = await office.start()
    write("agents/helper.toml", "instructions = 'I am helper'")
    write("agents/second.toml", "instructions = 'I am second'\nchannels = ['web']")
    await made.roster().reload("test")
    await until(lambda: "agent.second" in made.host().consuming.names)
    await office.write_on("web.ann", "hello", "m1")
    assert (await office.answer("m1")).output == "I am second"
    await office.ask("helper", "hello", "t1")  # behind the copy, if helper's queue has one
    await office.answer("t1")
    assert [request.system for request in office.requests] == ["I am second", "I am helper"]


async def test_a_channel_of_two_agents_is_refused_with_both_names(office: Office) -> None:
    made = await office.start()
    write("agents/helper.toml", "instructions = 'one'\nchannels = ['web']")
    write("agents/second.toml", "instructions = 'two'\nchannels = ['mail', 'web']")
    refused = (await made.roster().reload("test")).refused
    assert "agents/second.toml, line 2" in refused
    assert "channel 'web' is that of agent 'helper' already" in refused
    write("agents/second.toml", "instructions = 'two'\nchannels = ['e mail']")
    assert "agents/second.toml, line 2" in (await made.roster().reload("test")).refused


async def test_what_is_wrong_is_refused_and_said_and_the_old_stays(office: Office) -> None:
    made = await office.start()
    write("agents/helper.toml", "instructions = 'two'\nmodle = 'x'")
    status = await made.roster().reload("test")
    assert status.generation == 1
    assert "agents/helper.toml, line 2" in status.refused
    await office.ask("helper", "hello", "t1")
    assert (await office.answer("t1")).output == "one"
    host = made.host()
    _, details = host.health.alive()
    assert details["agents"]["refused"] == status.refused  # type: ignore[index]
    await host.presence.run_once()
    check = await agents_probe(office.store)()
    assert check.status == "warn" and "line 2" in check.detail
    write("agents/helper.toml", "instructions = 'two'")
    assert (await made.roster().reload("test")).refused == ""
    await host.presence.run_once()
    assert (await agents_probe(office.store)()).status == "ok"


async def test_a_reload_that_needs_a_tool_or_provider_nobody_has_is_refused(office: Office) -> None:
    made = await office.start()
    write("agents/helper.toml", "tools = ['fly']")
    assert "agents/helper.toml, line 1) names fly" in (await made.roster().reload("test")).refused
    assert made.roster().current.generation == 1


async def test_poll_seconds_looks_for_changes_of_any_file_of_an_agent(office: Office) -> None:
    made = await office.start()
    roster: Roster = made.roster()
    await roster.poll()
    assert roster.status.generation == 1
    write("agents/second.toml", "prompt_files = ['a.md']")
    write("agents/a.md", "x")
    await roster.poll()
    assert set(roster.current.agents) == {"assistant", "helper", "second"}
    write("agents/a.md", "longer")
    await roster.poll()
    assert roster.status.generation == 3
    await roster.poll()
    assert roster.status.generation == 3
    assert "files of agents" not in [loop.name for loop in made.contributions().loops]
    write("rockbot.toml", "[agent_files]\nfolder = 'agents'\npoll_seconds = 3\n[agents.assistant]\n")
    other = compose(load(), bus=MemoryBus(broker=office.broker), store=office.store, plugins=[("agent", agent_plugin)])
    loops = [(loop.name, loop.every) for loop in other.contributions().loops]
    assert ("files of agents", other.settings().agent_files.poll_seconds) in loops


async def test_other_settings_that_changed_are_named_because_they_need_a_restart(office: Office) -> None:
    made = await office.start()
    text = Path("rockbot.toml").read_text()
    write("rockbot.toml", f"source = 'other'\n{text}")
    assert (await made.roster().reload("test")).restart == ("source",)
    await made.host().presence.run_once()
    check = await agents_probe(office.store)()
    assert check.status == "warn" and "restart: source" in check.detail
    assert (await made.roster().reload("again")).restart == ("source",), "it still needs one"


async def test_a_memory_of_the_state_store_ends_the_prompt_of_the_tasks_after_it(office: Office) -> None:
    write("agents/helper.toml", "instructions = 'one'\nmemory_state = true")
    await office.start()
    await office.ask("helper", "hello", "t1")
    assert (await office.answer("t1")).output == "one"
    await office.store.put(agent_memory_key("default", "helper"), b"likes tea")
    await office.ask("helper", "hello", "t2")
    assert (await office.answer("t2")).output == "one\n\n# Memory\n\nWhat you noted earlier:\n\nlikes tea"


@pytest.mark.parametrize("usual", [signal.SIG_DFL, signal.SIG_IGN], ids=["default", "under nohup"])
async def test_a_hangup_reloads_and_afterwards_has_its_usual_effect(
    office: Office, monkeypatch: pytest.MonkeyPatch, usual: signal.Handlers
) -> None:
    roster = Roster(load(), office.clock)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    before = signal.signal(signal.SIGHUP, usual)
    try:
        with reload_on_hangup(roster):
            write("agents/second.toml", "")
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: roster.status.generation == 2)
        assert signal.getsignal(signal.SIGHUP) == usual
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "second" in roster.current.agents


async def test_a_process_without_files_says_that_it_cannot_reload() -> None:
    roster = Roster(Settings(), FakeClock())
    assert "could be read again" in (await roster.reload("test")).refused
