"""Hosts that make model calls over one in-memory broker and one store, with models that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from rockbot.container import compose
from rockbot.events import LlmRequest, LlmResponse, Message, StepRefused, TextPart, Usage
from rockbot.host import Host
from rockbot.llm import LlmClient, TextDelta
from rockbot.plugins import Plugin, Services
from rockbot.settings import Settings
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateStore
from rockbot_handlers.llm.plugin import contribution
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.letters import Letter
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.ports import Door
from rockbot_messaging.subscriptions import WatchSubscription, WorkSubscription
from rockbot_messaging.testing import FakeClock, SequenceIds
from rockbot_messaging.verdicts import Ack, Verdict

__all__ = ["Floor", "FloorModel"]

Say = Callable[[LlmRequest], "LlmResponse | Awaitable[LlmResponse]"]


def said(text: str, **usage: int) -> LlmResponse:
    return LlmResponse(message=Message(role="assistant", parts=(TextPart(text=text),)), usage=Usage(**usage))


class FloorModel:
    """A client; `made` are the requests that reached it in order, `most` how many were under way at once."""

    def __init__(self, say: Say | None = None) -> None:
        self.say: Say = say or (lambda request: said(request.messages[-1].text))
        self.made: list[LlmRequest] = []
        self.ids: list[str] = []
        self.under_way = 0
        self.most = 0

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:
        self.made.append(request)
        self.ids.append(call_id)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(5):
                await asyncio.sleep(0)
            answer = self.say(request)
            return answer if isinstance(answer, LlmResponse) else await answer
        finally:
            self.under_way -= 1

    async def stream(
        self, request: LlmRequest, *, call_id: str, deadline: float | None
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        yield await self.complete(request, call_id=call_id, deadline=deadline)

    async def count_tokens(self, request: LlmRequest) -> int:
        return 1

    async def close(self) -> None:
        pass

    @property
    def asked(self) -> list[str]:
        return [request.messages[-1].text for request in self.made]


class Kept:
    """A store that outlives the hosts that close it; `idle` is set while no call of it is under way."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._calls = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._calls += 1
            self.idle.clear()
            try:
                return await member(*args, **kwargs)
            finally:
                self._calls -= 1
                if not self._calls:
                    self.idle.set()

        return call

    async def close(self) -> None:
        pass


class Floor:
    """One broker, one store, any number of hosts; `answers` are what came back, by message id of the call.

    The store is on the floor's clock: one in memory, or what `make` makes. `moved` hears by how many seconds time went on.
    """

    def __init__(
        self,
        make: Callable[[FakeClock], StateStore] = MemoryStateStore,
        moved: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.store: StateStore = make(self.clock)
        self._kept = Kept(self.store)
        self._moved = moved
        self.broker = MemoryBroker(namespace="rockbot", clock=self.clock, ids=SequenceIds(1))
        self.client = MemoryBus(broker=self.broker)
        self.answers: dict[str, LlmResponse | StepRefused] = {}
        self.statuses: list[dict[str, Any]] = []
        self.hosts: list[Host] = []

    async def open(self) -> None:
        await self.store.open()
        await self.client.open()
        work = WorkSubscription(name="agent.assistant", patterns=("agent.step.assistant",))
        self._seeing = await self.client.subscriber.subscribe(work, self._see)
        await self.client.subscriber.subscribe(WatchSubscription(name="w", patterns=("agent.status.#",)), self._watch)

    async def leave_the_agent_to_its_host(self) -> None:
        """Answers go to turns from here on, not to `answers`."""
        await self._seeing.stop(timeout=1)

    async def close(self) -> None:
        for host in self.hosts:
            await host.close()
        await self.client.close()
        await self.store.close()

    async def host(self, clients: Mapping[str, LlmClient], *plugins: Plugin, **settings: Any) -> Host:
        def llm(services: Services) -> Any:
            return contribution(services, clients)

        chosen = Settings.model_validate({"streaming": {"enabled": False}} | settings)
        made = compose(
            chosen,
            bus=MemoryBus(broker=self.broker),
            store=self._kept,  # type: ignore[arg-type]
            clock=self.clock,
            ids=SequenceIds(2 + len(self.hosts)),
            plugins=[*((f"p{at}", plugin) for at, plugin in enumerate(plugins)), ("llm", partial(llm))],
        ).host()
        await made.start()
        self.hosts.append(made)
        return made

    async def ask(self, call: str, *, model: str = "a/x", lane: str = "interactive", **fields: Any) -> None:
        """Publish one model request; its text is its id."""
        given = {"agent": "assistant", "messages": (Message(role="user", parts=(TextPart(text=call),)),)} | fields
        event = LlmRequest.model_validate(given | {"model": model, "lane": lane})
        await self.client.publisher.publish(
            MessageEnvelope(
                topic=f"llm.request.{model.partition('/')[0]}.{lane}",
                body=event.to_body(),
                message_id=call,
                type=event.type_name,
                timestamp_ms=self.clock.now_ms(),
                conversation_id="talk",
                root_task_id="task",
                return_address=ReturnAddress("agent.step.assistant", call),
            ),
            door=Door.COMMANDS,
        )

    async def settle(self) -> None:
        """Let everything run that can, at the present instant."""
        for _ in range(120):
            await asyncio.sleep(0)
            await self._kept.idle.wait()

    async def run(self, seconds: float, *, step: float = 0.5) -> None:
        """Let time go by."""
        await self.settle()
        for _ in range(round(seconds / step)):
            await self._advance(step)
            await self.settle()

    async def until_answered(self, count: int, *, seconds: float = 600, step: float = 0.5) -> None:
        await self.settle()
        for _ in range(round(seconds / step)):
            if len(self.answers) >= count:
                return
            await self._advance(step)
            await self.settle()
        raise AssertionError(f"only {len(self.answers)} of {count} calls were answered within {seconds:g} s")

    async def _advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if self._moved is not None:
            await self._moved(seconds)

    async def letters(self, queue: str) -> list[Letter]:
        return list(await self.client.dead_letters.letters(queue))

    async def _see(self, envelope: MessageEnvelope) -> Verdict:
        assert envelope.return_address is not None
        kind: type[LlmResponse | StepRefused] = LlmResponse if envelope.type == LlmResponse.type_name else StepRefused
        self.answers[envelope.return_address.token] = kind.model_validate_json(envelope.body)
        return Ack()

    async def _watch(self, envelope: MessageEnvelope) -> Verdict:
        import json

        self.statuses.append(json.loads(envelope.body))
        return Ack()
