"""A whole conversation against a server that is as strict as Anthropic's, with everything going wrong that may."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core.links import Link
from nodes import anthropic_api
from nodes.anthropic_api import (
    KEY,
    Received,
    Reply,
    Server,
    StrictCheck,
    call,
    events_of,
    message,
    serve,
    sse,
    text,
    thought,
)

from rockbot.chain import Order
from rockbot.container import compose
from rockbot.context import Context
from rockbot.events import (
    AgentResponse,
    AgentTask,
    ApprovalDecision,
    ApprovalRequest,
    Event,
    TextPart,
    ToolInvoke,
    ToolResult,
    ToolSpec,
)
from rockbot.handler import CallNext
from rockbot.machines.turn_messages import SUMMARISE
from rockbot.plugins import Contribution, Services
from rockbot.plugins import Link as Registration
from rockbot.settings import AgentSettings, AnthropicSettings, Settings
from rockbot.state.memory import MemoryStateStore
from rockbot.state.replies import ReplySnapshots
from rockbot.watching import watch_replies
from rockbot_handlers.agent.plugin import plugin as agent_plugin
from rockbot_handlers.deadline.plugin import plugin as deadline_plugin
from rockbot_handlers.llm.plugin import plugin as llm_plugin
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.ports import Door
from rockbot_messaging.subscriptions import WatchSubscription, WorkSubscription
from rockbot_messaging.testing import FakeClock, SequenceIds
from rockbot_messaging.verdicts import Ack, Verdict

TOOLS = tuple(
    ToolSpec(name=name, description=name, input_schema={"type": "object"}, toolset="desk", needs_approval=name == "add")
    for name in ("slow", "broken", "add")
)
ANSWER = "It is 42, as far as the disk allows. Ünïcödé."


class Desk:
    """Three tools: one that needs approval, one that fails, one that is done when both others are."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._done = {"add": asyncio.Event(), "broken": asyncio.Event()}

    async def act(self, event: Event, context: Context, call_next: CallNext) -> None:
        assert isinstance(event, ToolInvoke)
        self.calls.append(event.tool)
        if event.tool == "slow":
            for done in self._done.values():
                await done.wait()
        failed = event.tool == "broken"
        said = "no disk" if failed else json.dumps(event.arguments)
        context.answer(
            ToolResult(call_id=event.call_id, tool=event.tool, parts=(TextPart(text=said),), is_error=failed)
        )
        if done := self._done.get(event.tool):
            context.after_publish.append(_setting(done))

    def plugin(self, services: Services) -> Contribution:
        return Contribution(
            links=(Registration(Order.WORK, "desk", Link(self.act, ToolInvoke)),),
            subscriptions=(WorkSubscription(name="tools.desk", patterns=("tool.invoke.desk",)),),
            tools=TOOLS,
        )


def _setting(event: asyncio.Event) -> Any:
    async def set_it() -> None:
        event.set()

    return set_it


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve(StrictCheck()) as server:
        yield server


def streamed(*content: dict[str, Any], stop: str = "end_turn") -> Reply:
    return Reply(sse(*events_of(message(*content, stop=stop))))


async def test_a_conversation_in_which_everything_goes_wrong_reads_as_a_correct_transcript_at_every_call(
    server: Server,
) -> None:
    thoughts = [thought("Three at once."), thought("Once more."), thought("Now I know.")]
    strict = server.check
    assert isinstance(strict, StrictCheck)
    strict.issued += thoughts
    asked = [call("toolu_a", "slow", {"n": 1}), call("toolu_b", "broken", {}), call("toolu_c", "add", {"n": 2})]
    cut = events_of(message(thought("lost"), text("I will look ag")))[:-3]
    too_long = anthropic_api.error("invalid_request_error", "prompt is too long: 212345 tokens > 200000 maximum")
    server.replies = [
        Reply(anthropic_api.error("rate_limit_error", "slow"), status=429, headers={"retry-after": "7"}),
        streamed(thoughts[0], text("I look."), *asked, stop="tool_use"),
        Reply(sse(*cut), cut=True),
        streamed(thoughts[1], call("toolu_d", "add", {"n": 3}), stop="tool_use"),
        Reply(too_long, status=400),
        Reply(message(text("They want 42; the disk is broken."))),
        streamed(thoughts[2], text(ANSWER)),
    ]
    desk, clock = Desk(), FakeClock()
    store = MemoryStateStore(clock)
    broker = MemoryBroker(namespace="rockbot", clock=clock, ids=SequenceIds(1))
    settings = Settings(
        agents={"assistant": AgentSettings(model="anthropic/claude-test", keep_recent=2, instructions="Look.")},
        anthropic=AnthropicSettings(api_key=KEY, base_url=server.url),
    )
    host = compose(
        settings,
        bus=MemoryBus(broker=broker),
        store=store,
        clock=clock,
        ids=SequenceIds(2),
        plugins=[
            ("deadline", deadline_plugin),
            ("agent", agent_plugin),
            ("llm", llm_plugin),
            ("desk", desk.plugin),
        ],
    ).host()
    client = MemoryBus(broker=broker)
    await client.open()
    await host.start()
    answers: asyncio.Queue[AgentResponse] = asyncio.Queue()

    async def receive(envelope: MessageEnvelope) -> Verdict:
        answers.put_nowait(AgentResponse.model_validate_json(envelope.body))
        return Ack()

    await client.subscriber.subscribe(WatchSubscription(name="client", patterns=("agent.response.*",)), receive)
    approved: list[ApprovalRequest] = []

    async def decide(envelope: MessageEnvelope) -> Verdict:
        asked = ApprovalRequest.model_validate_json(envelope.body)
        if all(asked.approval_id != other.approval_id for other in approved):
            approved.append(asked)
            decision = ApprovalDecision(approval_id=asked.approval_id, decision="approve", by="anna")
            yes = MessageEnvelope(
                topic="approval.decision.assistant",
                body=decision.to_body(),
                message_id=f"yes-{len(approved)}",
                type=decision.type_name,
                conversation_id=asked.conversation_id,
            )
            await client.publisher.publish(yes, door=Door.PUBLIC)
        return Ack()

    await client.subscriber.subscribe(WatchSubscription(name="people", patterns=("approval.request.*",)), decide)
    screens: dict[str, str] = {}
    async with watch_replies(client.subscriber, "talk", snapshots=ReplySnapshots(store)) as watcher:

        async def watch() -> None:
            async for update in watcher:
                screens[update.call_id] = update.text

        watching = asyncio.create_task(watch())
        task = AgentTask(input="What is it?", conversation_id="talk")
        envelope = MessageEnvelope(topic="agent.task.assistant", body=task.to_body(), message_id="task-1", type="")
        await client.publisher.publish(envelope, door=Door.PUBLIC)
        begun_ms = clock.now_ms()
        waited = 0.0
        async with asyncio.timeout(60):
            while answers.empty():
                if len(server.received) == 1:
                    waited = (clock.now_ms() - begun_ms) / 1000
                if not server.answering:  # however slow this machine is, a call takes no time on the clock
                    clock.advance(0.5)
                await asyncio.sleep(0.02)
        response = answers.get_nowait()
        async with asyncio.timeout(60):
            while ANSWER not in screens.values():
                await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.wait({watching})
    await host.close()
    await client.close()

    assert (response.status, response.output, response.tool_calls) == ("completed", ANSWER, 4)
    assert waited >= 6.5, "the server was asked again before it wanted to be"
    assert strict.refused == []
    assert server.replies == []
    assert sorted(desk.calls) == ["add", "add", "broken", "slow"]
    assert [(asked.tool, asked.arguments) for asked in approved] == [("add", {"n": 2}), ("add", {"n": 3})]
    assert [said for said in screens.values() if said] == ["I look.", ANSWER]
    bodies = [received.body for received in server.received]
    _compare(bodies)


def _compare(bodies: list[dict[str, Any]]) -> None:
    """What each of the calls was asked."""
    throttled, first, was_cut, after_cut, full, memory, last = bodies
    assert throttled == first
    assert was_cut == after_cut, "a repeated call is the same call"
    results = [block for block in was_cut["messages"][2]["content"] if block["type"] == "tool_result"]
    assert [(result["tool_use_id"], result.get("is_error", False)) for result in results] == [
        ("toolu_a", False),
        ("toolu_b", True),
        ("toolu_c", False),
    ]
    assert memory["messages"][-1]["content"][-1]["text"] == SUMMARISE
    assert "stream" not in memory
    assert len(full["messages"]) == 5
    told = json.dumps(last["messages"])
    assert "They want 42; the disk is broken." in told
    assert "What is it?" in told
    assert "toolu_a" not in told


async def test_the_server_refuses_what_the_real_one_refuses(server: Server) -> None:
    """The checker itself: each of these is a transcript that the API answers with 400."""
    check = StrictCheck()
    used = {"role": "assistant", "content": [call("t1", "add", {}), call("t2", "add", {})]}
    asks = {"role": "user", "content": [text("hi")]}

    def result(identity: str) -> dict[str, Any]:
        return {"type": "tool_result", "tool_use_id": identity, "content": [text("1")]}

    def refusal(*messages: dict[str, Any], **more: Any) -> str:
        body = {"model": "m", "max_tokens": 1, "messages": list(messages), **more}
        reply = check(Received("/v1/messages", {}, body))
        return "" if reply is None else str(reply.body["error"]["message"])

    answered = {"role": "user", "content": [result("t1"), result("t2")]}
    assert refusal(asks, used, answered) == ""
    assert refusal(asks) == ""
    for wrong in (
        (),
        (used, answered),
        (asks, asks),
        (asks, used),
        (asks, used, asks),
        (asks, used, {"role": "user", "content": [result("t1")]}),
        (asks, used, {"role": "user", "content": [result("t2"), result("t1")]}),
        (asks, used, {"role": "user", "content": [text("so"), result("t1"), result("t2")]}),
        (asks, used, {"role": "user", "content": [result("t1"), result("t2"), result("t3")]}),
        (asks, {"role": "assistant", "content": [text("x"), thought("not issued")]}, asks),
        (asks, {"role": "assistant", "content": [thought("not issued"), text("x")]}, asks),
        ({"role": "user", "content": [text(" ")]},),
        ({"role": "user", "content": [{**text("x"), "extra": 1}]},),
    ):
        assert refusal(*wrong), wrong
    mark = {"cache_control": {"type": "ephemeral"}}
    assert refusal({"role": "user", "content": [{**text("x"), **mark} for _ in range(5)]})
    assert refusal(asks, temperature=1)
