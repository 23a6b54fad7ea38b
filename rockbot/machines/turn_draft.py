"""A decision in the making: what was decided so far, and the state as it is after that.

Written as one object per input because every record changes what the next line has to look at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from rockbot.events.models import LlmRequest
from rockbot.events.tasks import ErrorInfo, StatusKind
from rockbot.events.tools import ToolInvoke
from rockbot.machines import turn_errors
from rockbot.machines.agent_snapshot import AgentRef, AgentSnapshot
from rockbot.machines.machine import Command, Decision, IndexWrite, Input, TimerRequest
from rockbot.machines.segments import Sealed
from rockbot.machines.turn_evolve import evolve
from rockbot.machines.turn_messages import TurnMessages, token_parts
from rockbot.machines.turn_records import (
    TranscriptSealed,
    TurnRecord,
)
from rockbot.machines.turn_state import AwaitingTools, Conversation, PendingTool, Task, Turn
from rockbot_messaging.identity import derive_id

__all__ = ["TurnDraft"]


@final
class TurnDraft:
    """Collects one decision; each record is folded in at once, so that what follows sees its effect.

    `state` is the conversation after the records so far, `messages` makes what is sent, `snapshot` gives the agent that a task
    began with.
    """

    def __init__(
        self,
        conversation_id: str,
        state: Conversation,
        given: Input,
        snapshot: Callable[[AgentRef | AgentSnapshot], AgentSnapshot],
    ) -> None:
        self.given = given
        self.snapshot = snapshot
        self.messages = TurnMessages(given.envelope.tenant, conversation_id)
        self.state = state
        self.records: list[TurnRecord] = []
        self.commands: list[Command] = []
        self.signals: list[Command] = []
        self.answered: list[str] = []
        self.timers: list[TimerRequest] = []
        self.canceled: list[str] = []
        self.index: list[IndexWrite] = []

    def decision(self) -> Decision[TurnRecord]:
        """Everything so far."""
        return Decision(
            records=tuple(self.records),
            commands=tuple(self.commands),
            signals=tuple(self.signals),
            answered=tuple(self.answered),
            timers=tuple(self.timers),
            canceled_timers=tuple(self.canceled),
            index=tuple(self.index),
        )

    def record(self, record: TurnRecord) -> None:
        """Say what is the case from here on."""
        self.records.append(record)
        self.state = evolve(self.state, record)

    def answer(self, call: str) -> None:
        """The command `call` is not open any more."""
        self.answered.append(call)

    def current(self) -> Turn:
        """The turn under way; there must be one."""
        assert self.state.turn is not None
        return self.state.turn

    def awaited(self) -> tuple[Turn | None, str]:
        """The turn under way, and the call that the input answers."""
        address = self.given.envelope.return_address
        call = token_parts(address.token)[1] if address else ""
        return self.state.turn, call

    def pending(self, turn: Turn | None, call: str) -> PendingTool | None:
        """The tool call with this id, if the turn waits for it."""
        if turn is None or not isinstance(turn.phase, AwaitingTools):
            return None
        return next((item for item in turn.phase.calls if item.id == call and item.result is None), None)

    def call(self, task: Task, name: str, event: LlmRequest | ToolInvoke, topic: str) -> None:
        """Send a command whose answer the turn waits for, until its deadline."""
        call = self.id(name)
        self.commands.append(self.messages.call(task, name, call, event, topic, self.current().deadline_ms))

    def id(self, name: str) -> str:
        """The id that the command of that name will have."""
        envelope = self.given.envelope
        return derive_id(envelope.message_id, name, tenant=envelope.tenant)

    def too_large(self, what: str) -> ErrorInfo:
        """Why a task ends of which `what` would not fit into a message."""
        return turn_errors.too_large(what, self.given.body_limit)

    def signal(self, task: Task, kind: StatusKind, text: str, *, tool: str = "") -> None:
        """Tell watchers."""
        turn = self.state.turn
        step = turn.model_calls if turn and turn.task.id == task.id else 0
        self.signals.append(self.messages.status(task, kind, text, number=len(self.signals), tool=tool, step=step))

    def seal(self, sealed: Sealed | None) -> None:
        """Store what was sealed of the transcript, if anything was."""
        if sealed is not None:
            self.record(TranscriptSealed(messages=sealed.messages, head=sealed.head))
            self.index.extend(self.messages.segments(sealed))

    def write_index(self, task: Task, status: str) -> None:
        """Write down where the task belongs and how it is."""
        self.index.append(self.messages.index(task, status))
