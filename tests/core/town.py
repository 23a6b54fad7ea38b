"""One broker, one state, a client, and hosts that come and go: agents with a stand-in for model and tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from core.links import Link

from rockbot.chain import Order
from rockbot.container import compose
from rockbot.context import Context
from rockbot.errors import PermanentFailure
from rockbot.events import (
    AgentResponse,
    AgentTask,
    Event,
    LlmRequest,
    LlmResponse,
    Message,
    StepStalled,
    TextPart,
    ToolCallPart,
    ToolInvoke,
    ToolResult,
    ToolSpec,
)
from rockbot.handler import CallNext
from rockbot.host import Host
from rockbot.plugins import Contribution, Plugin, Services
from rockbot.plugins import Link as Registration
from rockbot.settings import Settings
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateStore
from rockbot.state.sqlite import SqliteStateStore
from rockbot_handlers.agent.plugin import plugin as agent_plugin
from rockbot_handlers.deadline.plugin import plugin as deadline_plugin
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.ports import Door
from rockbot_messaging.subscriptions import WatchSubscription, WorkSubscription
from rockbot_messaging.testing import FakeClock, SequenceIds
from rockbot_messaging.verdicts import Ack, Verdict

ADD = ToolSpec(name="add", description="adds", input_schema={"type": "object"}, toolset="desk")

Model = Callable[[LlmRequest], LlmResponse]


def obedient(request: LlmRequest) -> LlmResponse:
    """Calls the tool once for a text that begins with 'use', otherwise says what it was last told."""
    last = request.messages[-1]
    if last.text.startswith("use"):
        call = ToolCallPart(call_id="t0", tool="add", arguments={"text": last.text})
        return LlmResponse(message=Message(role="assistant", parts=(call,)), stop_reason="tool_use")
    said = last.text or last.parts[0].parts[0].text  # type: ignore[union-attr]
    return LlmResponse(message=Message(role="assistant", parts=(TextPart(text=f"you said {said}"),)))


class Worker:
    """Model and tool in one link; counts calls by message id."""

    def __init__(self, model: Model = obedient) -> None:
        self.model = model
        self.calls: list[str] = []
        self.broken = False

    async def act(self, event: Event, context: Context, call_next: CallNext) -> None:
        if self.broken:
            raise PermanentFailure("no such model")
        self.calls.append(context.envelope.message_id)
        match event:
            case LlmRequest():
                context.answer(self.model(event))
            case ToolInvoke():
                context.answer(ToolResult(call_id=event.call_id, tool=event.tool, parts=(TextPart(text="42"),)))
            case _:
                await call_next(event, context)

    def plugin(self, services: Services) -> Contribution:
        return Contribution(
            links=(Registration(Order.WORK, "worker", Link(self.act, LlmRequest, ToolInvoke)),),
            subscriptions=(
                WorkSubscription(name="llm.scripted.interactive", patterns=("llm.request.scripted.interactive",)),
                WorkSubscription(name="tools.desk", patterns=("tool.invoke.desk",)),
            ),
            tools=(ADD,),
        )


class Town:
    """One broker, one state, a client; hosts come and go."""

    def __init__(self, store: StateStore, clock: FakeClock, make: Callable[[], StateStore]) -> None:
        self.clock = clock
        self.store = store
        self.make = make
        self.broker = MemoryBroker(namespace="rockbot", clock=clock, ids=SequenceIds(1))
        self.client = MemoryBus(broker=self.broker)
        self.answers: list[tuple[MessageEnvelope, AgentResponse]] = []
        self.stalls: list[StepStalled] = []
        self._changed = asyncio.Condition()
        self.hosts: list[Host] = []

    async def open(self) -> None:
        await self.client.open()
        watch = WatchSubscription(name="client", patterns=("agent.response.*",))
        self.address = (await self.client.subscriber.subscribe(watch, self._see)).address

    async def _see(self, envelope: MessageEnvelope) -> Verdict:
        async with self._changed:
            if all(envelope.message_id != other.message_id for other, _ in self.answers):  # the wire is at-least-once
                self.answers.append((envelope, AgentResponse.model_validate_json(envelope.body)))
            self._changed.notify_all()
        return Ack()

    async def host(self, *plugins: Plugin, **settings: Any) -> Host:
        chosen = Settings(**settings)
        made = compose(
            chosen,
            bus=MemoryBus(broker=self.broker, max_body_bytes=chosen.host.max_body_bytes),
            store=self.make(),
            clock=self.clock,
            ids=SequenceIds(2 + len(self.hosts)),
            plugins=[
                ("deadline", deadline_plugin),
                ("agent", agent_plugin),
                *((f"p{at}", plugin) for at, plugin in enumerate(plugins)),
            ],
        ).host()
        await made.start()
        self.hosts.append(made)
        return made

    async def say(self, text: str, id: str = "", **fields: Any) -> None:
        event = AgentTask(input=text)
        envelope = MessageEnvelope(
            topic="agent.task.assistant", body=event.to_body(), message_id=id or f"task-{text}", type="", **fields
        )
        await self.client.publisher.publish(envelope, door=Door.PUBLIC)

    async def answered(self, count: int) -> list[AgentResponse]:
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: len(self.answers) >= count)
        return [response for _, response in self.answers]

    async def letters(self, queue: str, count: int = 1) -> list[Any]:
        async with asyncio.timeout(60):
            while True:
                letters = await self.client.dead_letters.letters(queue)
                if len(letters) >= count:
                    return letters
                await asyncio.sleep(0)

    async def status(self, task: str) -> str:
        from rockbot.state.keys import task_key

        entry = await self.store.get(task_key("default", task))
        return json.loads(entry.value)["status"] if entry else ""

    async def until_status(self, task: str, status: str) -> None:
        async with asyncio.timeout(60):
            while await self.status(task) != status:
                await asyncio.sleep(0)


@asynccontextmanager
async def opened_town(kind: str, folder: Path) -> AsyncIterator[Town]:
    """A town whose state is `memory` or `sqlite`."""
    clock = FakeClock()
    shared = MemoryStateStore(clock)

    class Kept:
        """A memory store that outlives the hosts that close it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(shared, name)

        async def close(self) -> None:
            pass

    def make() -> StateStore:
        return Kept() if kind == "memory" else SqliteStateStore(folder / "state.db", clock)  # type: ignore[return-value]

    store = make()
    await store.open()
    made = Town(store, clock, make)
    await made.open()
    yield made
    for host in made.hosts:
        await host.close()
    await made.client.close()
    await store.close()
