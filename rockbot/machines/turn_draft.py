"""One decision of a turn in the making: records that are folded in at once, and everything that is to leave with them.

What follows from which input is decided next door (`turn_arrivals`, `turn_answers`, `turn_calls`, `turn_people`, `turn_ends`).
It is one object per input because every record changes what the next line has to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, final

from rockbot.events.approvals import ApprovalRequest
from rockbot.events.models import LlmRequest
from rockbot.events.tasks import ErrorInfo, StatusKind
from rockbot.events.tools import ToolInvoke
from rockbot.machines import turn_errors
from rockbot.machines.agent_snapshot import AgentRef, AgentSnapshot, StoredSnapshot
from rockbot.machines.limits import Used, notices
from rockbot.machines.machine import Command, Decision, IndexWrite, Input, TimerRequest
from rockbot.machines.segments import Sealed
from rockbot.machines.turn_evolve import evolve
from rockbot.machines.turn_messages import TimerPurpose, TurnMessages, token_parts
from rockbot.machines.turn_records import AnswerIgnored, TranscriptSealed, TurnRecord, TurnResumed
from rockbot.machines.turn_state import Conversation, PendingTool, Task, Turn
from rockbot.state.keys import agent_snapshot_key
from rockbot_messaging.identity import derive_id

__all__ = ["SHOWN", "TurnDraft"]

#: Index statuses of a task that has not ended, by the state of its turn; any other state is shown as "accepted".
SHOWN: Final = {"stalled": "stalled", "awaiting_approval": "awaiting_approval", "awaiting_input": "awaiting_input"}


@final
class TurnDraft:
    """What one input leads to. `state` is the conversation with everything that was recorded so far."""

    def __init__(
        self,
        conversation_id: str,
        state: Conversation,
        given: Input,
        snapshot: Callable[[AgentRef | AgentSnapshot], AgentSnapshot],
    ) -> None:
        self.given = given
        self.state = state
        self.messages = TurnMessages(given.envelope.tenant, conversation_id)
        self.snapshot = snapshot
        self._shown = _shown(state.turn)
        self._told = (state.turn.task.id, state.turn.used) if state.turn else ("", Used())
        self.records: list[TurnRecord] = []
        self.commands: list[Command] = []
        self.signals: list[Command] = []
        self._answered: list[str] = []
        self._timers: dict[str, TimerRequest] = {}
        self._canceled: dict[str, None] = {}
        self.index: list[IndexWrite] = []

    def decision(self) -> Decision[TurnRecord]:
        """All of it."""
        turn = self.state.turn
        shown = _shown(turn)
        if turn is not None and shown != self._shown and (shown[1] != "accepted" or shown[0] == self._shown[0]):
            self.write_index(turn.task, shown[1], turn)
        self.tell_limits()
        return Decision(
            records=tuple(self.records),
            commands=tuple(self.commands),
            signals=tuple(self.signals),
            answered=tuple(self._answered),
            timers=tuple(self._timers.values()),
            canceled_timers=tuple(self._canceled),
            index=tuple(self.index),
            state=self.state,
        )

    # -- what is known ------------------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """The instant of the input."""
        return self.given.now_ms

    def current(self) -> Turn:
        """The turn under way; there must be one."""
        assert self.state.turn is not None
        return self.state.turn

    def agent(self, task: Task) -> AgentSnapshot:
        """The agent of a task, as it was when that was accepted."""
        return self.snapshot(task.agent)

    def awaited(self) -> tuple[Turn | None, str]:
        """The turn under way, and the call that the input answers."""
        address = self.given.envelope.return_address
        return self.state.turn, token_parts(address.token)[1] if address else ""

    def id(self, name: str) -> str:
        """The id that the command of that name will have."""
        envelope = self.given.envelope
        return derive_id(envelope.message_id, name, tenant=envelope.tenant)

    def fits(self, name: str) -> bool:
        """Whether the command of that name is not known to be too large for the bus."""
        return name not in self.given.oversize

    def too_large(self, what: str) -> ErrorInfo:
        return turn_errors.too_large(what, self.given.body_limit)

    # -- what happened ------------------------------------------------------------------------------------------------

    def record(self, record: TurnRecord) -> None:
        """Write it down, and fold it in."""
        self.records.append(record)
        self.state = evolve(self.state, record)

    def ignore(self, type_name: str) -> None:
        """Note an input that nothing waits for."""
        self.record(AnswerIgnored(type=type_name, id=self.given.envelope.message_id))

    def answer(self, *calls: str) -> None:
        """These commands need not be published again."""
        self._answered.extend(calls)

    def has_answer(self, call: str) -> bool:
        """Whether this very step answers the command."""
        return call in self._answered

    def resume(self, before: Turn) -> None:
        """Something came: a turn that stood still runs again, with the time it was given at first.

        It stands still as long as one of its calls is stalled or people are asked, whatever else is answered.
        """
        if before.stands and not self.current().stands:
            deadline_ms = self.now_ms + before.task.allowed_ms
            self.record(TurnResumed(deadline_ms=deadline_ms))
            self.set_timer(before.task, deadline_ms)

    # -- what leaves --------------------------------------------------------------------------------------------------

    def call(
        self, task: Task, name: str, event: LlmRequest | ToolInvoke, topic: str, *, deadline_ms: int | None = None
    ) -> None:
        """A command whose answer comes back; its deadline is the turn's, or an earlier one of its own."""
        latest = self.current().deadline_ms
        deadline_ms = latest if deadline_ms is None else min(latest, deadline_ms)
        self.commands.append(self.messages.call(task, name, self.id(name), event, topic, deadline_ms))

    def send(self, command: Command) -> None:
        """A command that nobody answers."""
        self.commands.append(command)

    def set_timer(self, task: Task, due_ms: int, purpose: TimerPurpose = "deadline", call: str = "") -> None:
        """Set a timer of a task, or move it."""
        timer = self.messages.timer(task, due_ms, purpose, call)
        self._timers[timer.id] = timer
        self._canceled.pop(timer.id, None)

    def cancel_timer(self, task: Task, purpose: TimerPurpose = "deadline", call: str = "") -> None:
        """It is not needed any more."""
        timer_id = self.messages.timer_id(task, purpose, call)
        self._timers.pop(timer_id, None)
        self._canceled[timer_id] = None

    def cancel_call_timers(self, task: Task, call: PendingTool) -> None:
        """Those of one tool call."""
        if call.asks is not None:
            self.cancel_timer(task, "ask", call.id)
        if call.deadline_ms is not None:
            self.cancel_timer(task, "call", call.id)

    def signal(self, task: Task, kind: StatusKind, text: str, *, tool: str = "") -> None:
        """A status for watchers."""
        turn = self.state.turn
        step = turn.model_calls if turn and turn.task.id == task.id else 0
        self.signals.append(self.messages.status(task, kind, text, number=len(self.signals), tool=tool, step=step))

    def ask_people(self, task: Task, request: ApprovalRequest) -> None:
        """Tell them what is asked, and keep it where it is listed."""
        self.signals.append(self.messages.asks(task, request))
        self.index.append(self.messages.open_approval(request.approval_id, request))

    def asked_no_more(self, approval_id: str) -> None:
        """Take it off the list."""
        self.index.append(self.messages.open_approval(approval_id, None))

    def tell_limits(self) -> None:
        """Tell watchers which limits the turn has come near or reached since this was told last."""
        turn = self.state.turn
        if turn is None:
            return
        before = self._told[1] if self._told[0] == turn.task.id else Used()
        self._told = (turn.task.id, turn.used)
        if turn.used != before:
            for notice in notices(self.agent(turn.task).limits, before, turn.used):
                self.signal(turn.task, "limit", notice.text)

    def seal(self, sealed: Sealed | None) -> None:
        """Store what was sealed of the transcript, if anything was."""
        if sealed is not None:
            self.record(TranscriptSealed(messages=sealed.messages, head=sealed.head))
            self.write(self.messages.segments(sealed))

    # -- rows ---------------------------------------------------------------------------------------------------------

    def keep(self, agent: AgentSnapshot) -> None:
        """Store the snapshot with this draft."""
        row = StoredSnapshot(stored_ms=self.now_ms, agent=agent)
        self.index.append(IndexWrite(agent_snapshot_key(agent.digest), row.model_dump_json().encode()))

    def write_index(self, task: Task, status: str, turn: Turn | None = None, *, answered_by: str = "") -> None:
        """The rows of a task, with what its turn has used."""
        self.index.extend(self.messages.index(task, status, at_ms=self.now_ms, turn=turn, answered_by=answered_by))

    def write(self, rows: Iterable[IndexWrite]) -> None:
        """Further rows."""
        self.index.extend(rows)


def _shown(turn: Turn | None) -> tuple[str, str]:
    return ("", "") if turn is None else (turn.task.id, SHOWN.get(turn.state, "accepted"))
