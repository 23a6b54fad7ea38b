"""The agent's link: hands every event of a conversation to the turn machine.

It keeps nothing between two messages. Which conversation an event belongs to is in the task, or in the return token that
a worker copied back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, final
from weakref import WeakValueDictionary

from rockbot.agents.snapshots import Snapshots
from rockbot.context import Context
from rockbot.errors import PermanentFailure
from rockbot.events import (
    AgentTask,
    Event,
    LlmResponse,
    StepExpired,
    StepStalled,
    TimerDue,
    ToolResult,
    ToolSpec,
)
from rockbot.handler import CallNext
from rockbot.machines.agent_snapshot import AgentSnapshot, SnapshotNeeded
from rockbot.machines.engine import Engine
from rockbot.machines.turn import TurnMachine, token_parts
from rockbot.machines.turn_records import TurnRecord
from rockbot.machines.turn_state import Conversation
from rockbot.settings import AgentSettings, Settings
from rockbot.state.keys import Key, conversation_key
from rockbot.state.ports import StateStore
from rockbot_messaging.envelope import MessageEnvelope

__all__ = ["SUBSCRIPTION_PREFIX", "AgentHandler"]

#: Characters of an id from outside: a turn's messages repeat them, and all headers have to fit into one AMQP frame.
_LONGEST_ID: Final = 255

#: Work subscriptions of agents begin with this word.
SUBSCRIPTION_PREFIX: Final = "agent."


@final
class AgentHandler:
    """Takes the events of agents' own subscriptions; passes on what comes by others."""

    def __init__(
        self,
        settings: Settings,
        state: StateStore,
        tools: Callable[[], tuple[ToolSpec, ...]],
        snapshots: Snapshots,
    ) -> None:
        self._settings = settings
        self._state = state
        self._tools = tools
        self._snapshots = snapshots
        self._steps: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._jitter = random.Random()  # noqa: S311 - spreads retries, no secret

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (AgentTask, LlmResponse, ToolResult, StepStalled, StepExpired, TimerDue)

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        if not context.subscription.startswith(SUBSCRIPTION_PREFIX):
            await call_next(event, context)
            return
        name = context.subscription.removeprefix(SUBSCRIPTION_PREFIX)
        agent = self._settings.agents[name]
        conversation_id = self._conversation_of(event, context)
        snapshot = self._snapshot(name, agent)
        machine = TurnMachine(
            conversation_id,
            snapshot,
            default_timeout=agent.timeout_seconds,
            known=self._snapshots.known,
            stored=self._snapshots.is_stored(snapshot),
        )
        stream = conversation_key(context.envelope.tenant, conversation_id)
        engine = Engine(machine, self._state, body_limit=self._settings.host.max_body_bytes, jitter=self._jitter)
        # Correct without it, on any number of replicas; but steps that meet in one process need not write in vain, and
        # a crowd of tasks keeps the order in which it came.
        async with self._steps.setdefault(stream, asyncio.Lock()):
            stepped = await self._step(engine, stream, event, context)
        if stepped and isinstance(event, AgentTask):
            self._snapshots.note_stored(snapshot)

    async def _step(
        self, engine: Engine[Conversation, TurnRecord], stream: Key, event: Event, context: Context
    ) -> bool:
        """As `Engine.step`; snapshots of earlier tasks are read when it turns out that they are needed."""
        while True:
            try:
                return await engine.step(stream, event, context)
            except SnapshotNeeded as needed:
                await self._snapshots.fetch(needed.ref)

    def _conversation_of(self, event: Event, context: Context) -> str:
        envelope = context.envelope
        if isinstance(event, AgentTask):
            self._check_reply_to(envelope.reply_to)
            _check_lengths(envelope)
            return envelope.conversation_id or event.conversation_id or envelope.message_id
        if envelope.return_address is None:
            raise PermanentFailure(f"a {event.type_name} without a return address belongs to no turn")
        try:
            return token_parts(envelope.return_address.token)[0]
        except ValueError:
            raise PermanentFailure(f"the return token of this {event.type_name} is not one of ours") from None

    def _check_reply_to(self, reply_to: str | None) -> None:
        prefix = f"{self._settings.namespace}."
        if reply_to and reply_to.startswith(prefix) and not reply_to.startswith((f"{prefix}reply.", f"{prefix}watch.")):
            raise PermanentFailure(f"reply-to {reply_to!r} names a queue of this host; use a reply queue of your own")

    def _snapshot(self, name: str, agent: AgentSettings) -> AgentSnapshot:
        tools = self._tools()
        if agent.tools is not None:
            tools = tuple(tool for tool in tools if tool.name in agent.tools)
        return AgentSnapshot(
            name=name,
            model=self._settings.agent_model(agent),
            instructions=agent.instructions,
            tools=tools,
            max_model_calls=agent.max_model_calls,
            max_output_tokens=agent.max_output_tokens,
            max_waiting=agent.max_waiting,
            policy=agent.policy,
        )


def _check_lengths(envelope: MessageEnvelope) -> None:
    given = {
        "conversation id": envelope.conversation_id,
        "correlation id": envelope.correlation_id,
        "reply-to": envelope.reply_to,
        "tenant": envelope.tenant,
    }
    for what, text in given.items():
        if text is not None and len(text) > _LONGEST_ID:
            raise PermanentFailure(f"the {what} has {len(text)} characters; at most {_LONGEST_ID} are taken")
