"""A conversation played without store and bus: what the engine does with a decision, in a dictionary."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from rockbot.events import (
    AgentResponse,
    AgentTask,
    ApprovalDecision,
    ApprovalRequest,
    CancelTask,
    ControlCancel,
    DecisionKind,
    Event,
    LlmRequest,
    LlmResponse,
    Message,
    SegmentRef,
    StepExpired,
    StepRefused,
    StepStalled,
    TextPart,
    TimerDue,
    ToolCallPart,
    ToolInvoke,
    ToolResult,
    ToolSpec,
)
from rockbot.machines.agent_snapshot import AgentSnapshot
from rockbot.machines.approvals import ASK_USER
from rockbot.machines.machine import Command, Decision, Input, TimerRequest, advance, fold
from rockbot.machines.segments import Segment
from rockbot.machines.transcript_rules import begun, transcript_problems
from rockbot.machines.turn import TurnMachine, return_token
from rockbot.machines.turn_graph import Way, ways_of
from rockbot.machines.turn_records import TurnRecord
from rockbot.machines.turn_state import Conversation
from rockbot.state.keys import Key, key_parts, segment_key
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.identity import derive_id
from rockbot_messaging.testing import FakeClock

CONVERSATION = "c1"
TIMEOUT = 60.0


#: What is special about a tool, by its name.
FLAGS: dict[str, dict[str, Any]] = {
    "pay": {"needs_approval": True},
    "slow": {"deadline_seconds": 5.0},
    "frail": {"on_exhausted": "tell_model"},
}


def tool(name: str) -> ToolSpec:
    if name == ASK_USER.name:
        return ASK_USER
    schema = {"type": "object"}
    return ToolSpec(name=name, description=name, input_schema=schema, toolset="desk", **FLAGS.get(name, {}))


def agent(
    *tools: str,
    max_model_calls: int = 5,
    max_waiting: int = 100,
    instructions: str = "Be brief.",
    **fields: Any,
) -> AgentSnapshot:
    return AgentSnapshot(
        name="assistant",
        model="scripted/demo",
        instructions=instructions,
        tools=tuple(tool(name) for name in tools),
        max_model_calls=max_model_calls,
        max_output_tokens=100,
        max_waiting=max_waiting,
        **fields,
    )


def says(text: str, **fields: Any) -> LlmResponse:
    parts = (TextPart(text=text),) if text else ()
    return LlmResponse(message=Message(role="assistant", parts=parts), **fields)


def calls(*tools: str, text: str = "", **fields: Any) -> LlmResponse:
    """A reply that calls these tools; the model's ids are t0, t1, ..."""
    said = [TextPart(text=text)] if text else []
    asked = [
        ToolCallPart(call_id=f"t{at}", tool=name, arguments={"question": "why?"} if name == "ask_user" else {"at": at})
        for at, name in enumerate(tools)
    ]
    message = Message(role="assistant", parts=(*said, *asked))
    return LlmResponse(message=message, stop_reason=fields.pop("stop_reason", "tool_use"), **fields)


def result(text: str, *, is_error: bool = False) -> ToolResult:
    return ToolResult(parts=(TextPart(text=text),), is_error=is_error)


class Play:
    """One conversation, its open commands by id, its timers, and all that ever left it."""

    def __init__(
        self, snapshot: AgentSnapshot | None = None, *, tenant: str = "default", limit: int | None = None
    ) -> None:
        self.machine = TurnMachine(CONVERSATION, snapshot or agent("add", "look"), default_timeout=TIMEOUT)
        self.clock = FakeClock()
        self.tenant = tenant
        self.limit = limit
        self.state: Conversation = self.machine.initial()
        self.records: list[bytes] = []
        self.sent: dict[str, Command] = {}
        self.open: dict[str, Command] = {}
        self.timers: dict[str, TimerRequest] = {}
        self.rows: dict[str, bytes] = {}
        self.statuses: list[tuple[str, str]] = []
        self.last: Decision[TurnRecord] | None = None
        self.ways: set[Way] = set()
        self.asked: list[ApprovalRequest] = []
        self._inputs = 0

    def take(self, event: Event, *, call: str = "", id: str = "", **fields: Any) -> Decision[TurnRecord]:
        """Give the machine one message, an answer to `call` when one is named."""
        self._inputs += 1
        address = ReturnAddress("agent.step.assistant", return_token(CONVERSATION, call)) if call else None
        envelope = MessageEnvelope(
            topic="agent.step.assistant",
            body=event.to_body(),
            message_id=id or f"m{self._inputs}",
            type=event.type_name,
            tenant=self.tenant,
            return_address=address,
            **fields,
        )
        given = Input(event, envelope, self.clock.now_ms(), self.limit)
        state, decision = advance(self.machine, self.state, given)
        while oversize := self._oversize(decision):
            assert not oversize & given.oversize, f"decided again, and still too large: {oversize}"
            given = dataclasses.replace(given, oversize=given.oversize | oversize)
            state, decision = advance(self.machine, self.state, given)
        again, same = advance(self.machine, self.state, given)
        assert (again, same) == (state, decision), "equal arguments gave different decisions"
        for record in decision.records:
            self.state, ways = ways_of(self.state, record)
            self.ways |= ways
        assert self.state == state
        self._apply(envelope, decision)
        return decision

    def _oversize(self, decision: Decision[TurnRecord]) -> set[str]:
        if self.limit is None:
            return set()
        return {command.name for command in decision.commands if len(command.event.to_body()) > self.limit}

    def _apply(self, envelope: MessageEnvelope, decision: Decision[TurnRecord]) -> None:
        assert decision.records
        for record in decision.records:
            data = self.machine.dump_record(record)
            assert self.machine.load_record(data) == record
            self.records.append(data)
        assert self.machine.load_state(self.machine.dump_state(self.state)) == self.state
        for answered in decision.answered:
            self.open.pop(answered, None)
        for canceled in decision.canceled_timers:
            self.timers.pop(canceled, None)
        for timer in decision.timers:
            self.timers[timer.id] = timer
        for command in decision.commands:
            sent = derive_id(envelope.message_id, command.name, tenant=self.tenant)
            assert sent not in self.sent, f"the command {command.name} left twice as {sent}"
            self.sent[sent] = command
            if command.awaits_answer:
                self.open[sent] = command
        for row in decision.index:
            assert "/segment/" not in row.key or row.key not in self.rows, "a segment was written twice"
            if row.value is None:
                self.rows.pop(row.key, None)
            else:
                self.rows[row.key] = row.value
        for signal in decision.signals:
            if isinstance(signal.event, ApprovalRequest):
                self.asked.append(signal.event)
                continue
            self.statuses.append((signal.event.kind, signal.event.tool))  # type: ignore[attr-defined]
        self.last = decision

    # -- what people and workers do

    def ask(self, text: str = "hello", *, id: str = "", **fields: Any) -> str:
        """A new task; its id."""
        task = id or f"task{self._inputs}"
        self.take(AgentTask(input=text), id=task, **fields)
        return task

    def answer(self, event: Event, *, to: str | None = None) -> Decision[TurnRecord]:
        """Answer an open command: the only one, or that of the tool `to`."""
        return self.take(event, call=self.call(to))

    def call(self, tool_name: str | None = None) -> str:
        fits = [
            call
            for call, command in self.open.items()
            if tool_name is None or (isinstance(command.event, ToolInvoke) and command.event.tool == tool_name)
        ]
        assert len(fits) == 1, (tool_name, [command.name for command in self.open.values()])
        return fits[0]

    def stall(self, call: str, reason: str = "the worker is broken") -> Decision[TurnRecord]:
        return self.take(StepStalled(message_id=call, queue="tools.desk", reason=reason), call=call)

    def expire(self, call: str) -> Decision[TurnRecord]:
        return self.take(StepExpired(message_id=call), call=call)

    def fire(self, timer: TimerRequest | None = None) -> Decision[TurnRecord]:
        """The sweeper: the earliest timer falls due (or an older one is delivered late)."""
        timer = timer or min(self.timers.values(), key=lambda item: (item.due_ms, item.id))
        if (wait := timer.due_ms - self.clock.now_ms()) > 0:
            self.clock.advance(wait / 1000)
        if self.timers.get(timer.id) == timer:
            del self.timers[timer.id]
        assert isinstance(timer.event, TimerDue)
        return self.take(timer.event, call=timer.id)

    def decide(self, decision: DecisionKind, *, approval: str = "", **fields: Any) -> Decision[TurnRecord]:
        """A person decides about an open approval or question: the only one, or that one."""
        approval = approval or self.approvals[0]
        return self.take(ApprovalDecision(approval_id=approval, decision=decision, **fields))

    def cancel(self, task: str, **fields: Any) -> Decision[TurnRecord]:
        return self.take(CancelTask(task_id=task, conversation_id=CONVERSATION, **fields))

    def refuse(self, call: str, **fields: Any) -> Decision[TurnRecord]:
        return self.take(StepRefused(message_id=call, **{"message": "no", **fields}), call=call)

    # -- what can be seen

    @property
    def approvals(self) -> list[str]:
        """The ids of what people are asked at present, as the index lists them."""
        return [
            ApprovalRequest.model_validate_json(row).approval_id
            for key, row in self.rows.items()
            if "/approval/" in key
        ]

    @property
    def stopped(self) -> list[str]:
        """Every call that was called off."""
        events = [command.event for command in self.sent.values()]
        return [call for event in events if isinstance(event, ControlCancel) for call in event.calls]

    def end_of(self, task: str) -> AgentResponse:
        """The one answer of a task."""
        (response,) = [response for response in self.responses if response.task_id == task]
        return response

    @property
    def responses(self) -> list[AgentResponse]:
        return [command.event for command in self.sent.values() if isinstance(command.event, AgentResponse)]

    @property
    def requests(self) -> list[LlmRequest]:
        return [command.event for command in self.sent.values() if isinstance(command.event, LlmRequest)]

    def kinds(self) -> list[str]:
        return [record.kind for record in self.last.records] if self.last else []

    def check(self) -> None:
        """What always holds."""
        refolded = fold(
            self.machine, self.machine.initial(), (self.machine.load_record(record) for record in self.records)
        )
        assert refolded == self.state
        for cut in (1, len(self.records) // 2):
            head = fold(self.machine, self.machine.initial(), map(self.machine.load_record, self.records[:cut]))
            saved = self.machine.load_state(self.machine.dump_state(head))
            assert fold(self.machine, saved, map(self.machine.load_record, self.records[cut:])) == self.state
        turn = self.state.turn
        joined = [each.task for each in turn.joined] if turn else []
        under_way = [*([turn.task] if turn else []), *joined, *self.state.waiting]
        deadlines = [timer for timer in self.timers.values() if timer.event.purpose == "deadline"]  # type: ignore[attr-defined]
        assert len(deadlines) == len(under_way), "a task under way without a timer, or a timer without a task"
        asking = [call.id for call in turn.asking] if turn else []
        given_up = [call.id for call in turn.pending if call.under_way and call.deadline_ms] if turn else []
        stalled = [call.id for call in turn.stalled] if turn else []
        of_calls = sorted(key_parts(Key(name))[-1] for name in self.timers.keys() - {timer.id for timer in deadlines})
        assert [of for of in of_calls if of != "notice"] == sorted({*asking, *given_up} - set(stalled))
        assert sorted(self.approvals) == sorted(asking), "what people are asked is not what is listed"
        assert sorted([*self.open, *stalled]) == sorted(turn.open_calls if turn else []), "who answers what is open?"
        assert bool(self.state.turn) or not self.state.waiting, "a task waits for nothing"
        if self.state.turn is None:
            assert not self.open, "nobody waits for an open command"
        under_way_now = self.state.turn is not None
        assert transcript_problems(self.transcript(), open_calls=under_way_now) == []
        for request in self.requests:
            assert transcript_problems(self.shown(request)) == []

    def transcript(self) -> list[Message]:
        """The whole transcript, what is sealed included."""
        return [*self._before(self.state.sealed), *self.state.messages]

    def shown(self, request: LlmRequest) -> list[Message]:
        """What a request shows to the model."""
        since = request.earlier.since if request.earlier else 0
        return list(begun([*self._before(request.earlier, since), *request.messages]))

    def _before(self, head: SegmentRef | None, since: int = 0) -> list[Message]:
        messages: list[Message] = []
        while head is not None and head.number > since:
            data = self.rows[segment_key(self.tenant, CONVERSATION, head.number)]
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (head.sha256, head.size)
            segment = Segment.model_validate_json(data)
            messages[:0] = segment.messages
            head = segment.previous
        return messages
