"""One task of very many steps, through the engine over a store, weighed: what each step publishes and what it stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast, final

from machines.stage import CONVERSATION, agent, calls, result

from rockbot.context import Context
from rockbot.events import AgentTask, Event, LlmRequest, ToolInvoke
from rockbot.machines.engine import Engine
from rockbot.machines.turn import TurnMachine
from rockbot.machines.turn_records import TurnRecord
from rockbot.machines.turn_state import Conversation
from rockbot.state.keys import Key, conversation_key
from rockbot.state.ports import Append, Loaded, StateStore
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import Door

STREAM = conversation_key("default", CONVERSATION)


@final
@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of one step: a model's reply and a tool's result. `loaded` is what was read to decide it."""

    published: int
    stored: int
    loaded: int
    snapshot: int


@final
class Weighed:
    """A store that weighs what the engine reads and writes."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self.stored = self.loaded = self.snapshot = 0

    async def load(self, stream: Key, *, handled: str = "") -> Loaded:
        loaded = await self._store.load(stream, handled=handled)
        self.loaded += sum(len(record.value) for record in loaded.records)
        self.loaded += len(loaded.snapshot.value) if loaded.snapshot else 0
        return loaded

    async def append(self, step: Append) -> int:
        self.snapshot = len(step.snapshot) if step.snapshot else self.snapshot
        self.stored += sum(map(len, step.records)) + len(step.snapshot or b"")
        self.stored += sum(len(row.message) for row in step.outbox) + sum(len(row.value or b"") for row in step.index)
        return await self._store.append(step)

    async def mark_sent(self, ids: Any) -> None:
        await self._store.mark_sent(ids)


@final
class LongTalk:
    """A task whose model calls one tool in every step. `machine` and `engine` are those it runs on."""

    def __init__(self, store: StateStore, clock: Clock, *, text: str) -> None:
        snapshot = agent("add", max_model_calls=100_000, context_window=100_000_000)
        self.machine = TurnMachine(CONVERSATION, snapshot, default_timeout=3600)
        self._weighed = Weighed(store)
        self.engine: Engine[Conversation, TurnRecord] = Engine(self.machine, cast("StateStore", self._weighed))
        self._clock = clock
        self._text = text
        self._messages = 0
        self._published = 0
        self._open: MessageEnvelope | None = None

    async def begin(self) -> None:
        """The task."""
        await self._take(AgentTask(input="count, and do not stop"))

    async def step(self) -> Cost:
        """The model calls the tool, the tool answers."""
        weighed = self._weighed
        weighed.stored = weighed.loaded = self._published = 0
        await self._take(calls("add", text=self._text))
        await self._take(result(self._text))
        return Cost(self._published, weighed.stored, weighed.loaded, weighed.snapshot)

    async def request(self) -> LlmRequest:
        """The model request that is open now."""
        assert self._open is not None
        return LlmRequest.model_validate_json(self._open.body)

    async def _take(self, event: Event) -> None:
        self._messages += 1
        envelope = MessageEnvelope(
            topic="agent.step.assistant",
            body=event.to_body(),
            message_id=f"m{self._messages}",
            type=event.type_name,
            return_address=self._open.return_address if self._open else None,
        )
        context = Context(envelope, clock=self._clock, source="test")
        await self.engine.step(STREAM, event, context)
        for emission in context.emissions:
            self._published += len(emission.envelope.body)
            if emission.door is not Door.LOSSY and emission.envelope.type in (
                LlmRequest.type_name,
                ToolInvoke.type_name,
            ):
                self._open = emission.envelope
        for act in context.after_publish:
            await act()
