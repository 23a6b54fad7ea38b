"""The turn: one task from request to answer, as a pure machine over a conversation.

    task -> model call -> tool calls -> model call -> ... -> answer

Every arrow is one message; this module decides which messages follow from which, and nothing else. One task runs at a
time in a conversation, later ones wait their turn. Exactly one terminal event leaves for every task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from pydantic import ValidationError

from rockbot import topics
from rockbot.errors import NewerRelease, PermanentFailure
from rockbot.events.approvals import ApprovalDecision
from rockbot.events.control import CancelTask
from rockbot.events.models import LlmResponse
from rockbot.events.registry import explain
from rockbot.events.tasks import (
    AgentTask,
    StepExpired,
    StepRefused,
    StepStalled,
    TimerDue,
)
from rockbot.events.tools import ToolResult
from rockbot.machines.agent_snapshot import AgentRef, AgentSnapshot, SnapshotNeeded
from rockbot.machines.machine import Decision, Input
from rockbot.machines.turn_answers import STALL_LIMIT, expired, model_replied, refused, stalled, tool_returned
from rockbot.machines.turn_arrivals import accept, cancel, timer
from rockbot.machines.turn_decisions import decided
from rockbot.machines.turn_draft import TurnDraft
from rockbot.machines.turn_evolve import evolve
from rockbot.machines.turn_messages import return_token, token_parts
from rockbot.machines.turn_records import RECORDS, TurnRecord
from rockbot.machines.turn_state import Conversation, Task

__all__ = ["LONGEST_TASK", "STALL_LIMIT", "TurnMachine", "return_token", "token_parts"]

#: Seconds a task may take at most, whatever deadline it brings.
LONGEST_TASK: Final = 30 * 86_400


@final
class TurnMachine:
    """Decides for one conversation. `conversation_id` is the stream's, `agent` the agent that a new task goes to.

    `agent` None takes no new task and only goes on with others.

    `known` are further snapshots by digest, those of tasks that were accepted before. `stored` says that the row of `agent`
    is known to be in the store: a new task need not write it. `memory` is what the agent has noted, as a section of the prompt of
    a new task. `refused` is why it must not begin: it was cancelled before it came. `trace` is the trace context of what is sent
    on its behalf.
    """

    def __init__(
        self,
        conversation_id: str,
        agent: AgentSnapshot | None,
        *,
        default_timeout: float,
        known: Mapping[str, AgentSnapshot] | None = None,
        stored: bool = False,
        memory: str = "",
        refused: str | None = None,
        trace: str | None = None,
    ) -> None:
        self._conversation_id = conversation_id
        self._agent = agent
        self._default_timeout = default_timeout
        self._known = {} if known is None else known
        self._stored = stored
        self._memory = memory
        self._refused = refused
        self._trace = trace

    def initial(self) -> Conversation:
        return Conversation()

    def evolve(self, state: Conversation, record: TurnRecord) -> Conversation:
        return evolve(state, record)

    def dump_record(self, record: TurnRecord) -> bytes:
        return RECORDS.dump_json(record, exclude_none=True)

    def load_record(self, data: bytes) -> TurnRecord:
        try:
            return RECORDS.validate_json(data)
        except ValidationError as exc:
            raise self._newer("record", exc) from exc

    def dump_state(self, state: Conversation) -> bytes:
        return state.model_dump_json(exclude_none=True).encode()

    def load_state(self, data: bytes) -> Conversation:
        try:
            return Conversation.model_validate_json(data)
        except ValidationError as exc:
            raise self._newer("snapshot", exc) from exc

    def _newer(self, what: str, exc: ValidationError) -> NewerRelease:
        return NewerRelease(
            f"a {what} of conversation {self._conversation_id!r} was written by a newer release: {explain(exc)}"
        )

    def decide(self, state: Conversation, given: Input) -> Decision[TurnRecord]:
        """As in the protocol. Raises `SnapshotNeeded`: give the machine that snapshot, too."""
        draft = TurnDraft(self._conversation_id, state, given, self._snapshot)
        match given.event:
            case AgentTask() as task:
                self._accept(draft, task)
            case LlmResponse() as response:
                model_replied(draft, response)
            case ToolResult() as result:
                tool_returned(draft, result)
            case ApprovalDecision() as decision:
                decided(draft, decision)
            case CancelTask() as cancellation:
                cancel(draft, cancellation)
            case StepStalled() as failure:
                stalled(draft, failure)
            case StepRefused() as refusal:
                refused(draft, refusal)
            case StepExpired():
                expired(draft)
            case TimerDue() as due:
                timer(draft, due)
            case other:
                draft.ignore(other.type_name)
        return draft.decision()

    def _snapshot(self, agent: AgentRef | AgentSnapshot) -> AgentSnapshot:
        if isinstance(agent, AgentSnapshot):
            return agent
        if self._agent is not None and agent.snapshot == self._agent.digest:
            return self._agent
        found = self._known.get(agent.snapshot)
        if found is None:
            raise SnapshotNeeded(agent)
        return found

    def _accept(self, draft: TurnDraft, event: AgentTask) -> None:
        given = draft.given
        envelope = given.envelope
        if self._agent is None:
            raise PermanentFailure(f"conversation {self._conversation_id!r} was given no agent for a new task")
        timeout_ms = round((event.timeout_seconds or self._default_timeout) * 1000)
        deadline_ms = envelope.deadline_ms if envelope.deadline_ms is not None else given.now_ms + timeout_ms
        longest = min(LONGEST_TASK, self._agent.max_seconds or LONGEST_TASK)
        deadline_ms = min(deadline_ms, given.now_ms + round(longest * 1000))
        if not self._stored:
            draft.keep(self._agent)
        root = envelope.root_task_id
        place = topics.place_of(envelope.topic)
        task = Task(
            id=envelope.message_id,
            agent=self._agent.ref,
            parts=event.parts,
            memory=self._memory,
            correlation_id=envelope.correlation_id,
            reply_to=envelope.reply_to,
            deadline_ms=deadline_ms,
            allowed_ms=max(0, deadline_ms - given.now_ms),
            accepted_ms=given.now_ms,
            root_id=root if root and root != envelope.message_id else "",
            mode=event.mode,
            user=event.user or place,
            lane=event.lane,
            output_schema=event.output_schema,
            place=place,
            traceparent=envelope.traceparent,
            trace=self._trace,
        )
        accept(draft, task, refused=self._refused)
