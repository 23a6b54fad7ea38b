"""The agent's link: hands every event of a conversation to the turn machine.

What it remembers between two messages saves reading and is never relied on. Which conversation an event belongs to is in
the task, or in the return token that a worker copied back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final, final
from weakref import WeakValueDictionary

from rockbot import topics
from rockbot.agents.memories import Memories
from rockbot.agents.reading import Agent
from rockbot.agents.roster import Roster
from rockbot.agents.snapshots import Snapshots
from rockbot.context import Context, Emission
from rockbot.errors import PermanentFailure
from rockbot.events import (
    AgentResponse,
    AgentTask,
    ApprovalDecision,
    ApprovalRequest,
    CancelTask,
    ErrorInfo,
    Event,
    LlmResponse,
    StepExpired,
    StepRefused,
    StepStalled,
    TimerDue,
    ToolResult,
    ToolSpec,
)
from rockbot.handler import CallNext
from rockbot.machines.agent_snapshot import AgentSnapshot, SnapshotNeeded
from rockbot.machines.engine import Engine
from rockbot.machines.remembering import Memory
from rockbot.machines.turn import TurnMachine, token_parts
from rockbot.machines.turn_records import TurnRecord
from rockbot.machines.turn_state import Conversation
from rockbot.settings import Settings
from rockbot.state.keys import Key, approval_key, conversation_key
from rockbot.state.ports import StateStore
from rockbot_handlers.agent.measuring import TurnMeasures
from rockbot_handlers.agent.subscriptions import SUBSCRIPTION_PREFIX
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import InvalidTopic
from rockbot_messaging.ledger import ResultLedger
from rockbot_messaging.measures import NO_MEASURES, Measures
from rockbot_messaging.tracing import NO_TRACING, Tracing

__all__ = ["AgentHandler"]

logger = logging.getLogger(__name__)

#: Characters of an id from outside: a turn's messages repeat them, and all headers have to fit into one AMQP frame.
_LONGEST_ID: Final = 255


@final
class AgentHandler:
    """Takes the events of agents' own subscriptions; passes on what comes by others."""

    def __init__(
        self,
        settings: Settings,
        roster: Roster,
        state: StateStore,
        tools: Callable[[], tuple[ToolSpec, ...]],
        snapshots: Snapshots,
        ledger: ResultLedger,
        measures: Measures = NO_MEASURES,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._settings = settings
        self._roster = roster
        self._state = state
        self._tools = tools
        self._made: dict[str, tuple[Agent, AgentSnapshot]] = {}
        self._snapshots = snapshots
        self._memories = Memories(state)
        self._ledger = ledger
        self._memory: Memory[Conversation] = Memory()
        self._measures = measures
        self._tracing = tracing
        self._steps: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._jitter = random.Random()  # noqa: S311 - spreads retries, no secret

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (
            AgentTask,
            LlmResponse,
            ToolResult,
            ApprovalDecision,
            CancelTask,
            StepStalled,
            StepRefused,
            StepExpired,
            TimerDue,
        )

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        if not context.subscription.startswith(SUBSCRIPTION_PREFIX):
            await call_next(event, context)
            return
        name = context.subscription.removeprefix(SUBSCRIPTION_PREFIX)
        agent = self._roster.get(name)
        conversation_id = await self._conversation_of(event, context)
        if conversation_id is None:
            return
        if isinstance(event, AgentTask) and self._is_anothers(name, context):
            return
        if agent is None and isinstance(event, AgentTask):
            _refuse(name, conversation_id, context)
            return
        snapshot = None if agent is None else self._snapshot(agent)
        machine = TurnMachine(
            conversation_id,
            snapshot,
            default_timeout=0 if agent is None else agent.settings.timeout_seconds,
            known=self._snapshots.known,
            stored=snapshot is not None and self._snapshots.is_stored(snapshot),
            memory=await self._noted(event, context, agent),
            refused=await self._refusal(context.envelope) if isinstance(event, AgentTask) else None,
            trace=self._trace(context.envelope) if isinstance(event, AgentTask) else None,
        )
        stream = conversation_key(context.envelope.tenant, conversation_id)
        engine = Engine(
            machine,
            self._state,
            body_limit=self._settings.host.max_body_bytes,
            jitter=self._jitter,
            memory=self._memory,
            told=TurnMeasures(name, context, self._measures, self._tracing).told,
        )
        # Correct without it, on any number of replicas; but steps that meet in one process need not write in vain, and
        # a crowd of tasks keeps the order in which it came.
        async with self._steps.setdefault(stream, asyncio.Lock()):
            stepped = await self._step(engine, stream, event, context)
        if stepped and snapshot is not None and isinstance(event, AgentTask):
            self._snapshots.note_stored(snapshot)

    def _trace(self, task: MessageEnvelope) -> str | None:
        """The trace context of everything that a task leads to."""
        return self._tracing.begun(task.traceparent, task.message_id)

    async def _step(
        self, engine: Engine[Conversation, TurnRecord], stream: Key, event: Event, context: Context
    ) -> bool:
        """As `Engine.step`; snapshots of earlier tasks are read when it turns out that they are needed."""
        while True:
            try:
                return await engine.step(stream, event, context, trusts=_awaits_answer(context.envelope))
            except SnapshotNeeded as needed:
                await self._snapshots.fetch(needed.ref)

    async def _noted(self, event: Event, context: Context, agent: Agent | None) -> str:
        if agent is None or not isinstance(event, AgentTask):
            return ""
        section = await self._memories.section(agent, tenant=context.envelope.tenant)
        return "" if section is None else section.text

    async def _refusal(self, envelope: MessageEnvelope) -> str | None:
        """Why a task must not begin: it, or the one it was delegated by, was cancelled before it was picked up."""
        for name in dict.fromkeys((envelope.message_id, envelope.root_task_id)):
            if name and (reason := await self._ledger.refusal(name, tenant=envelope.tenant)) is not None:
                return reason
        return None

    async def _conversation_of(self, event: Event, context: Context) -> str | None:
        """The conversation that an event belongs to; None when there is nothing to be done about it any more."""
        envelope = context.envelope
        if isinstance(event, ApprovalDecision):
            return envelope.conversation_id or await self._asked_in(event, envelope)
        if isinstance(event, CancelTask):
            return event.conversation_id
        if isinstance(event, AgentTask):
            self._check_reply_to(envelope.reply_to)
            _check_lengths(envelope)
            _check_place(topics.place_of(envelope.topic))
            said = envelope.conversation_id or event.conversation_id
            return said or topics.place_of(envelope.topic) or envelope.message_id
        if envelope.return_address is None:
            raise PermanentFailure(f"a {event.type_name} without a return address belongs to no turn")
        try:
            return token_parts(envelope.return_address.token)[0]
        except ValueError:
            raise PermanentFailure(f"the return token of this {event.type_name} is not one of ours") from None

    def _is_anothers(self, name: str, context: Context) -> bool:
        """Whether a person wrote on a channel that is not this agent's any more and reaches its new agent, too: the binding of a
        channel stays with the queue until somebody takes it away."""
        channel = topics.place_of(context.envelope.topic).partition(".")[0]
        having = self._roster.current.answers_on(channel) if channel else None
        if having is None or having == name:
            return False
        extra = {"topic": context.envelope.topic, "agent": having}
        logger.info("left to the agent that has this channel now", extra=extra)
        return True

    async def _asked_in(self, decision: ApprovalDecision, envelope: MessageEnvelope) -> str | None:
        """Where the approval that a decision names is open."""
        try:
            entry = await self._state.get(approval_key(envelope.tenant, decision.approval_id))
        except UnicodeError:  # no key can be made of it
            entry = None
        if entry is None:
            logger.info("a decision on nothing that is open", extra={"approval": decision.approval_id})
            return None
        return ApprovalRequest.model_validate_json(entry.value).conversation_id

    def _check_reply_to(self, reply_to: str | None) -> None:
        prefix = f"{self._settings.namespace}."
        if reply_to and reply_to.startswith(prefix) and not reply_to.startswith((f"{prefix}reply.", f"{prefix}watch.")):
            raise PermanentFailure(f"reply-to {reply_to!r} names a queue of this host; use a reply queue of your own")

    def _snapshot(self, agent: Agent) -> AgentSnapshot:
        """The agent's snapshot, put together once for each change of the agent."""
        made = self._made.get(agent.name)
        if made is None or made[0] is not agent:
            made = self._made[agent.name] = (agent, agent.snapshot(self._tools()))
        return made[1]


def _awaits_answer(envelope: MessageEnvelope) -> Callable[[Conversation], bool] | None:
    """Whether a conversation awaits the answer that a message is: nobody but the one that made the call does."""
    if envelope.return_address is None:
        return None
    _, call = token_parts(envelope.return_address.token)
    return lambda conversation: conversation.turn is not None and conversation.turn.awaits(call)


def _refuse(name: str, conversation_id: str, context: Context) -> None:
    """Answer a task for an agent that was removed while its queue is still worked for the turns it began."""
    envelope = context.envelope
    response = AgentResponse(
        task_id=envelope.message_id,
        conversation_id=conversation_id,
        agent=name,
        status="failed",
        error=ErrorInfo(code="no_agent", message=f"the agent {name!r} was removed and takes no new tasks"),
    )
    answer = context.make(response, topic=topics.response(name), name="no agent")
    answer = answer.replace(correlation_id=envelope.correlation_id or envelope.message_id, deadline_ms=None)
    context.emissions.append(Emission(answer, response.door, address=envelope.reply_to or ""))


def _check_place(place: str) -> None:
    """A foreign client may write at any place, but an answer must be able to go there: found out before a model is asked."""
    try:
        if place:
            topics.user_reply(place)
    except InvalidTopic as exc:
        raise PermanentFailure(f"there is no way back to {place[:300]!r}: {exc}") from None


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
