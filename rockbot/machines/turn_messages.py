"""What a turn sends, as data: commands with a way back, the one answer, statuses, its timer and its index row.

Only shapes and addresses are decided here; which of them leave is decided in `rockbot.machines.turn`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, final

from rockbot import topics
from rockbot.events.approvals import ApprovalRequest
from rockbot.events.content import Message, TextPart
from rockbot.events.control import ControlCancel
from rockbot.events.models import LlmRequest, StopReason, Usage
from rockbot.events.tasks import AgentResponse, AgentStatus, ErrorInfo, StatusKind, TaskOutcome, TimerDue
from rockbot.events.tools import ToolInvoke
from rockbot.machines.agent_snapshot import AgentRef, AgentSnapshot
from rockbot.machines.machine import Command, IndexWrite, TimerRequest
from rockbot.machines.segments import Sealed
from rockbot.machines.turn_state import Compacting, Conversation, PendingTool, Task, Turn
from rockbot.state.keys import (
    agent_use_key,
    approval_key,
    key,
    segment_key,
    task_key,
    task_of_key,
    task_time_key,
    task_under_key,
)
from rockbot.tokens import estimate_request
from rockbot_messaging.canceling import CANCEL_TOPIC
from rockbot_messaging.envelope import ReturnAddress

__all__ = ["SUMMARISE", "TimerPurpose", "TurnMessages", "return_token", "token_parts"]

#: What a timer of a task does: end it, decide for people, give up one call, tell that the wall clock runs out.
TimerPurpose = Literal["deadline", "ask", "call", "notice"]

#: What is asked for when the transcript becomes too long.
SUMMARISE: Final = (
    "The conversation so far is about to be replaced by a summary. Write that summary now, for yourself, as plain text. Call no"
    " tools. Keep everything that is needed to go on: what was asked and what is still to be done, decisions and their"
    " reasons, facts, names, numbers, paths and identifiers exactly as they are, what was tried and failed, and what tools"
    " returned that still matters. Leave out what no longer matters."
)


def return_token(conversation_id: str, call: str) -> str:
    """The token that leads an answer back to its conversation and call."""
    return json.dumps([conversation_id, call], separators=(",", ":"))


def token_parts(token: str) -> tuple[str, str]:
    """Conversation and call of a token.

    Raises:
        ValueError: it was not made by `return_token`, or cannot be a key of state.
    """
    parts = json.loads(token)
    if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) and part for part in parts)):
        raise ValueError("not a return token of a turn")
    "".join(parts).encode()  # JSON may spell what UTF-8 cannot
    return parts[0], parts[1]


#: Characters of a reason that calls are stopped with.
_REASON: Final = 300


@final
@dataclass(frozen=True, slots=True)
class TurnMessages:
    """The messages of one conversation."""

    tenant: str
    conversation_id: str

    def request(self, task: Task, agent: AgentSnapshot, state: Conversation, *, role: str = "main") -> LlmRequest:
        """The next model call of a turn, to the model that the agent's routes choose for it.

        What changes from task to task ends the prompt, behind what may be cached.
        """
        request = LlmRequest(
            model=agent.model,
            agent=agent.name,
            user=task.user,
            role=role,
            lane=task.lane,
            system=f"{agent.instructions}\n\n{task.memory}" if task.memory else agent.instructions,
            messages=state.messages,
            earlier=state.earlier,
            tools=agent.tools,
            max_output_tokens=agent.max_output_tokens,
            output_schema=task.output_schema if role == "main" else None,
            input_limit=agent.context_window - agent.max_output_tokens if agent.count_tokens else None,
        )
        if not agent.routes:
            return request
        choice = agent.choice(role, lane=task.lane, tokens=estimate_request(request, factor=state.token_factor))
        return request.model_copy(
            update={"model": choice.model, "fallbacks": choice.fallbacks, "fall_on": choice.fall_on}
        )

    def summary_request(self, task: Task, agent: AgentSnapshot, state: Conversation, phase: Compacting) -> LlmRequest:
        """The call that asks for the summary that a turn waits for.

        It offers the tools that the transcript has calls of, because providers refuse such a transcript otherwise. Where the
        provider said that the whole is too long, it shows the newer half of what is sealed: all of it would be too long again.
        """
        asked = Message(role="user", parts=(TextPart(text=SUMMARISE),))
        request = self.request(task, agent, state, role="memory")
        earlier = request.earlier
        if phase.forced and earlier is not None:
            since = earlier.since + (earlier.number - earlier.since) // 2
            earlier = earlier.model_copy(update={"since": since})
        return request.model_copy(update={"earlier": earlier, "messages": (*state.messages[: phase.cut], asked)})

    def call(
        self, task: Task, name: str, call: str, event: LlmRequest | ToolInvoke, topic: str, deadline_ms: int
    ) -> Command:
        """A command whose answer comes back under the id `call`."""
        return Command(
            name=name,
            event=event,
            topic=topic,
            return_address=ReturnAddress(topics.step(task.agent.name), return_token(self.conversation_id, call)),
            deadline_ms=deadline_ms,
            correlation_id=task.correlation_id or task.id,
            conversation_id=self.conversation_id,
            root_task_id=task.root,
            traceparent=task.trace,
            awaits_answer=True,
        )

    def response(
        self,
        task: Task,
        turn: Turn | None,
        status: TaskOutcome,
        *,
        output: str,
        error: ErrorInfo | None,
        stop_reason: StopReason = "end_turn",
        answered_by: str = "",
    ) -> Command:
        """The one terminal event of a task; `turn` is None when it never was part of one."""
        response = AgentResponse(
            task_id=task.id,
            conversation_id=self.conversation_id,
            agent=task.agent.name,
            status=status,
            output=output,
            parts=(TextPart(text=output),) if output else (),
            error=error,
            stop_reason=stop_reason,
            model_calls=turn.model_calls if turn else 0,
            tool_calls=turn.tool_calls if turn else 0,
            usage=turn.usage if turn else Usage(),
            cost=turn.cost if turn else None,
            answered_by=answered_by,
        )
        return Command(
            name=f"end:{task.id}",
            event=response,
            topic=topics.user_reply(task.place) if task.place else topics.response(task.agent.name),
            address=task.reply_to or "",
            correlation_id=task.correlation_id or task.id,
            conversation_id=self.conversation_id,
            root_task_id=task.root,
            traceparent=task.trace,
        )

    def status(self, task: Task, kind: StatusKind, text: str, *, number: int, tool: str, step: int) -> Command:
        """A signal for watchers; `number` tells apart those of one step."""
        status = AgentStatus(
            task_id=task.id,
            conversation_id=self.conversation_id,
            agent=task.agent.name,
            kind=kind,
            text=text[:2000],
            tool=tool,
            step=step,
        )
        return Command(
            name=f"status:{number}",
            event=status,
            topic=topics.status(task.agent.name),
            correlation_id=task.correlation_id or task.id,
            conversation_id=self.conversation_id,
            root_task_id=task.root,
            traceparent=task.trace,
        )

    def stop(self, task: Task, calls: Sequence[str], reason: str) -> Command:
        """The broadcast that ends calls whose answers nobody waits for any more."""
        return Command(
            name=f"stop:{calls[0]}",
            event=ControlCancel(task_id=task.root, reason=reason[:_REASON], calls=tuple(calls)),
            topic=CANCEL_TOPIC,
            conversation_id=self.conversation_id,
            root_task_id=task.root,
            traceparent=task.trace,
        )

    def request_of(self, task: Task, call: PendingTool, arguments: dict[str, Any]) -> ApprovalRequest:
        """What people are asked about a call that asks."""
        ask = call.asks
        assert ask is not None
        return ApprovalRequest(
            approval_id=call.id,
            kind=ask.kind,
            task_id=task.id,
            conversation_id=self.conversation_id,
            agent=task.agent.name,
            tool=call.tool,
            arguments=arguments,
            argument_hash=ask.argument_hash,
            text=ask.text,
            choices=ask.choices,
            user=task.user,
            asked_ms=ask.asked_ms,
            expires_ms=ask.expires_ms,
        )

    def asks(self, task: Task, request: ApprovalRequest) -> Command:
        """The signal for whoever may decide."""
        return Command(
            name=f"asks:{request.approval_id}",
            event=request,
            topic=topics.approval_request(task.agent.name),
            correlation_id=task.correlation_id or task.id,
            conversation_id=self.conversation_id,
            root_task_id=task.root,
            traceparent=task.trace,
        )

    def open_approval(self, approval_id: str, request: ApprovalRequest | None) -> IndexWrite:
        """The row that lists what people are asked; None takes it away."""
        row = None if request is None else request.model_dump_json(exclude_none=True).encode()
        return IndexWrite(approval_key(self.tenant, approval_id), row)

    def timer_id(self, task: Task, purpose: TimerPurpose = "deadline", call: str = "") -> str:
        """The id of a timer of a task, unique in the store."""
        return key(self.tenant, "timer", self.conversation_id, task.id, purpose, *([call] if call else []))

    def timer(self, task: Task, due_ms: int, purpose: TimerPurpose = "deadline", call: str = "") -> TimerRequest:
        """A timer of a task. Its event carries the instant, so that a moved timer is told from a due one."""
        timer_id = self.timer_id(task, purpose, call)
        topic = topics.timer_due(task.agent.name)
        return TimerRequest(
            id=timer_id,
            due_ms=due_ms,
            event=TimerDue(timer_id=timer_id, purpose=purpose, due_ms=due_ms),
            topic=topic,
            return_address=ReturnAddress(topic, return_token(self.conversation_id, timer_id)),
        )

    def index(
        self, task: Task, status: str, *, at_ms: int, turn: Turn | None = None, answered_by: str = ""
    ) -> list[IndexWrite]:
        """The rows that say where a task belongs, how it is, since when, and what its `turn` has used."""
        row: dict[str, object] = {
            "conversation_id": self.conversation_id,
            "agent": task.agent.name,
            "status": status,
            "at_ms": at_ms,
            "accepted_ms": task.accepted_ms,
            "user": task.user,
            "root": task.root_id,
            "answered_by": answered_by,
        }
        if turn is not None:
            row |= {"model_calls": turn.model_calls, "tool_calls": turn.tool_calls, "cost": turn.cost}
            usage = turn.usage
            read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
            row |= {"input_tokens": read, "output_tokens": usage.output_tokens}
        told = json.dumps({name: value for name, value in row.items() if value not in ("", None)}).encode()
        rows = [
            IndexWrite(task_key(self.tenant, task.id), told),
            IndexWrite(task_time_key(self.tenant, task.accepted_ms, task.id), told),
        ]
        if status == "accepted" and at_ms == task.accepted_ms:
            of = task_of_key(self.tenant, self.conversation_id, task.accepted_ms, task.id)
            rows.append(IndexWrite(of, b"{}"))
        return rows

    def under_root(self, task: Task) -> list[IndexWrite]:
        """The row by which a delegated task is found when its root task is cancelled."""
        if not task.root_id:
            return []
        return [IndexWrite(task_under_key(self.tenant, task.root_id, task.id), task.id.encode())]

    def use(self, task: Task, at_ms: int | None) -> list[IndexWrite]:
        """The row that keeps the snapshot of a task from `at_ms` on; None lets it go."""
        if not isinstance(task.agent, AgentRef):
            return []
        at = agent_use_key(task.agent.name, task.agent.snapshot, self.tenant, task.id)
        return [IndexWrite(at, None if at_ms is None else str(at_ms).encode())]

    def segments(self, sealed: Sealed) -> list[IndexWrite]:
        """The rows that hold what was sealed."""
        return [IndexWrite(segment_key(self.tenant, self.conversation_id, at), data) for at, data in sealed.rows]
