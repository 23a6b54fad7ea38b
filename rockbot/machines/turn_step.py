"""What each input means to a turn: which records, messages and timers follow from it."""

from __future__ import annotations

import json
from typing import Final, final

from rockbot import topics
from rockbot.events.content import Message, TextPart, ToolCallPart, ToolResultPart
from rockbot.events.models import LlmResponse, StopReason, Usage
from rockbot.events.tasks import ErrorInfo, StepExpired, StepStalled, TaskOutcome, TimerDue
from rockbot.events.tools import ToolInvoke, ToolResult
from rockbot.machines import turn_errors
from rockbot.machines.agent_snapshot import AgentSnapshot, StoredSnapshot
from rockbot.machines.machine import IndexWrite
from rockbot.machines.skill_reading import read_skill
from rockbot.machines.turn_answer import shortened
from rockbot.machines.turn_asking import ask_for_summary, ask_model, send_request, take_summary
from rockbot.machines.turn_draft import TurnDraft
from rockbot.machines.turn_records import (
    AnswerIgnored,
    CallRepeated,
    ModelCalled,
    ModelReplied,
    StepFailed,
    TaskAccepted,
    ToolReturned,
    ToolsCalled,
    TurnEnded,
    TurnResumed,
    TurnStarted,
)
from rockbot.machines.turn_state import AwaitingModel, AwaitingTools, Compacting, PendingTool, Task, Turn
from rockbot.state.keys import agent_snapshot_key
from rockbot.tokens import corrected_factor, estimate_request

__all__ = ["STALL_LIMIT", "TurnStep"]

#: Seconds that a stalled turn waits for somebody to send its dead letter on.
STALL_LIMIT: Final = 7 * 86_400


@final
class TurnStep:
    """What one input leads to, by what it is and what the conversation waits for."""

    def __init__(self, draft: TurnDraft) -> None:
        self._draft = draft

    # -- inputs -------------------------------------------------------------------------------------------------------

    def keep(self, agent: AgentSnapshot) -> None:
        """Store the snapshot with this step."""
        row = StoredSnapshot(stored_ms=self._draft.given.now_ms, agent=agent)
        self._draft.index.append(IndexWrite(agent_snapshot_key(agent.digest), row.model_dump_json().encode()))

    def accept(self, task: Task) -> None:
        self._draft.record(TaskAccepted(task=task))
        self._draft.write_index(task, "accepted")
        self._draft.index.extend(self._draft.messages.use(task, self._draft.given.now_ms))
        if task.deadline_ms <= self._draft.given.now_ms:
            self._end(task, "expired", error=turn_errors.late_on_arrival())
            return
        waiting = len(self._draft.state.waiting) - 1
        if self._draft.state.turn is not None and waiting >= self._draft.snapshot(task.agent).max_waiting:
            self._end(task, "failed", error=turn_errors.busy(waiting))
            return
        self._draft.timers.append(self._draft.messages.deadline_timer(task, task.deadline_ms))
        if self._draft.state.turn is not None:
            self._draft.signal(task, "queued", "waiting for the task before it in this conversation")
            return
        self._draft.signal(task, "accepted", "")
        self._start_next()

    def model_replied(self, response: LlmResponse) -> None:
        turn, call = self._draft.awaited()
        if turn is None or not isinstance(turn.phase, AwaitingModel | Compacting) or turn.phase.id != call:
            self.ignore(response.type_name)
            return
        self._draft.answer(call)
        if isinstance(turn.phase, Compacting):
            self._summarised(turn, turn.phase, response)
            return
        # What a model said when its window was full is cut off: it is asked again once there is room.
        asks_again = response.stop_reason == "context_window" and turn.compacted_at != turn.model_calls
        self._draft.record(
            ModelReplied(
                id=call,
                message=Message(role="assistant", parts=()) if asks_again else response.message,
                stop_reason=response.stop_reason,
                usage=response.usage,
                token_factor=self._factor(turn.task, response.usage),
            )
        )
        self._resume(turn)
        if asks_again and ask_for_summary(self._draft, turn.task, forced=True):
            return
        turn = self._draft.current()
        task = turn.task
        calls = response.message.tool_calls
        text = response.message.text
        error = turn_errors.model_stopped(response.stop_reason, wants_tools=bool(calls))
        if error is None and calls and turn.model_calls >= (most := self._draft.snapshot(task.agent).max_model_calls):
            error = turn_errors.too_many_calls(most)
        if error is not None:
            self._end(task, "failed", output=text, error=error, stop_reason=response.stop_reason)
        elif calls:
            self._call_tools(turn, response)
        else:
            self._end(task, "completed", output=text, stop_reason=response.stop_reason)

    def _summarised(self, before: Turn, phase: Compacting, response: LlmResponse) -> None:
        task = before.task
        name = f"model:{task.id}:{before.model_calls}"
        problem = take_summary(self._draft, phase, response, name)
        self._resume(before)
        if name in self._draft.given.oversize:
            self._end(task, "failed", error=self._draft.too_large("the request to the model"))
        elif problem and phase.forced:
            self._end(task, "failed", error=turn_errors.no_room(problem))
        else:
            send_request(self._draft, task, name)

    def _factor(self, task: Task, usage: Usage) -> float:
        """The correction of estimates after a call that used so much."""
        state = self._draft.state
        reported = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        if not reported:
            return state.token_factor
        estimated = estimate_request(self._draft.messages.request(task, self._draft.snapshot(task.agent), state))
        return corrected_factor(state.token_factor, estimated=estimated, reported=reported)

    def tool_returned(self, result: ToolResult) -> None:
        turn, call = self._draft.awaited()
        pending = self._draft.pending(turn, call)
        if turn is None or pending is None:
            self.ignore(result.type_name)
            return
        self._draft.answer(call)
        self._draft.record(
            ToolReturned(
                id=call,
                result=ToolResultPart(call_id=pending.call_id, parts=result.parts, is_error=result.is_error),
            )
        )
        self._resume(turn)
        text = "\n".join(part.text for part in result.parts if isinstance(part, TextPart))
        self._draft.signal(turn.task, "tool_result", text, tool=pending.tool)
        self._continue_when_complete()

    def stalled(self, event: StepStalled) -> None:
        turn, call = self._draft.awaited()
        if turn is None or not turn.awaits(call):
            self.ignore(event.type_name)
            return
        # The letter keeps the command now: publishing it again would only bring more letters.
        self._draft.answer(call)
        # The clock stands while a person has to act; a long limit takes its place.
        limit_ms = self._draft.given.now_ms + STALL_LIMIT * 1000
        self._draft.record(
            StepFailed(
                id=call, deadline_ms=limit_ms, message_id=event.message_id, queue=event.queue, reason=event.reason
            )
        )
        self._draft.timers.append(self._draft.messages.deadline_timer(turn.task, limit_ms))
        self._draft.write_index(turn.task, "stalled")
        self._draft.signal(turn.task, "stalled", f"a step failed and waits in {event.queue}.dlq: {event.reason}")

    def expired(self) -> None:
        turn, call = self._draft.awaited()
        if turn is None or not turn.awaits(call):
            self.ignore(StepExpired.type_name)
            return
        if turn.stalled:
            # The turn's clock stood, the message's did not: its deadline says nothing any more.
            self._repeat(turn, call)
            return
        self._end(turn.task, "expired", error=turn_errors.late_step())

    def timer(self, event: TimerDue) -> None:
        turn = self._draft.state.turn
        deadlines = [(task, task.deadline_ms) for task in self._draft.state.waiting]
        if turn is not None:
            deadlines.append((turn.task, turn.deadline_ms))
        due = (event.timer_id, event.due_ms)
        # A timer that was moved after it was published carries an instant that is no deadline any more.
        task = next((task for task, at_ms in deadlines if (self._draft.messages.timer_id(task), at_ms) == due), None)
        if task is None:
            self.ignore(event.type_name)
            return
        if turn is not None and turn.task.id == task.id and turn.stalled:
            self._end(task, "failed", error=turn_errors.never_mended(STALL_LIMIT, turn.stalled[-1].reason))
            return
        self._end(task, "expired", error=turn_errors.late(task.allowed_ms))

    def ignore(self, type_name: str) -> None:
        self._draft.record(AnswerIgnored(type=type_name, id=self._draft.given.envelope.message_id))

    def _repeat(self, before: Turn, call: str) -> None:
        name = f"again:{call}"
        if name in self._draft.given.oversize:
            self._end(before.task, "failed", error=self._draft.too_large("the repeated call"))
            return
        self._draft.answer(call)
        self._draft.record(CallRepeated(id=call, new_id=self._draft.id(name)))
        self._resume(before)
        if not isinstance(before.phase, AwaitingTools):
            send_request(self._draft, before.task, name)
            return
        at = next(at for at, item in enumerate(before.phase.calls) if item.id == call)
        self._call_tool(before.task, name, self._draft.state.messages[-1].tool_calls[at])

    # -- what follows -------------------------------------------------------------------------------------------------

    def _start_next(self) -> None:
        """Start the first waiting task that can be; one that cannot leaves nothing in the transcript."""
        while self._draft.state.waiting:
            task = self._draft.state.waiting[0]
            name = f"model:{task.id}:1"
            if name not in self._draft.given.oversize:
                self._draft.record(TurnStarted(model_call=self._draft.id(name)))
                ask_model(self._draft, task, name)
                return
            self._end(task, "failed", error=self._draft.too_large("the request to the model"))

    def _call_tools(self, turn: Turn, response: LlmResponse) -> None:
        task = turn.task
        text = response.message.text
        all_asked = {f"tool:{task.id}:{turn.model_calls}:{at}": it for at, it in enumerate(response.message.tool_calls)}
        if too_large := next((asked for name, asked in all_asked.items() if name in self._draft.given.oversize), None):
            error = self._draft.too_large(f"the call of the tool {too_large.tool}")
            self._end(task, "failed", output=text, error=error, stop_reason=response.stop_reason)
            return
        if text:
            self._draft.signal(task, "model_reply", text)
        agent = self._draft.snapshot(task.agent)
        known = {tool.name for tool in agent.tools}
        calls: list[PendingTool] = []
        for name, asked in all_asked.items():
            call_id = self._draft.id(name)
            if problem := turn_errors.uncallable(asked, known):
                result = ToolResultPart(call_id=asked.call_id, parts=(TextPart(text=problem),), is_error=True)
                calls.append(PendingTool(id=call_id, call_id=asked.call_id, tool=asked.tool, result=result))
                continue
            if looked_up := read_skill(asked, agent):
                self._draft.signal(task, "tool_call", json.dumps(asked.arguments, ensure_ascii=False), tool=asked.tool)
                calls.append(PendingTool(id=call_id, call_id=asked.call_id, tool=asked.tool, result=looked_up))
                continue
            calls.append(PendingTool(id=call_id, call_id=asked.call_id, tool=asked.tool))
            self._call_tool(task, name, asked)
        self._draft.record(ToolsCalled(calls=tuple(calls)))
        self._continue_when_complete()

    def _call_tool(self, task: Task, name: str, asked: ToolCallPart) -> None:
        agent = self._draft.snapshot(task.agent)
        toolset = next(tool.toolset for tool in agent.tools if tool.name == asked.tool)
        invoke = ToolInvoke(
            tool=asked.tool,
            arguments=asked.arguments,
            call_id=asked.call_id,
            agent=agent.name,
            policy=agent.policy.about(asked.tool),
        )
        self._draft.call(task, name, invoke, topics.tool_invoke(toolset))
        self._draft.signal(task, "tool_call", json.dumps(asked.arguments, ensure_ascii=False), tool=asked.tool)

    def _continue_when_complete(self) -> None:
        turn = self._draft.state.turn
        if turn is None or not isinstance(turn.phase, AwaitingTools) or not turn.phase.complete:
            return
        name = f"model:{turn.task.id}:{turn.model_calls + 1}"
        if name in self._draft.given.oversize:
            self._end(turn.task, "failed", error=self._draft.too_large("the request to the model"))
            return
        self._draft.record(ModelCalled(id=self._draft.id(name)))
        ask_model(self._draft, turn.task, name)

    def _end(
        self,
        task: Task,
        status: TaskOutcome,
        *,
        output: str = "",
        error: ErrorInfo | None = None,
        stop_reason: StopReason = "end_turn",
    ) -> None:
        turn = self._draft.state.turn
        mine = turn if turn is not None and turn.task.id == task.id else None
        self._draft.record(TurnEnded(task_id=task.id, status=status, output=output, error=error))
        response = self._draft.messages.response(
            task, mine, status, output=output, error=error, stop_reason=stop_reason
        )
        if response.name in self._draft.given.oversize:
            response = shortened(response, self._draft.given.body_limit or 0)
        self._draft.commands.append(response)
        if mine is not None:
            self._draft.answered.extend(mine.open_calls)
        timer_id = self._draft.messages.timer_id(task)
        self._draft.timers = [timer for timer in self._draft.timers if timer.id != timer_id]
        self._draft.canceled.append(timer_id)
        self._draft.write_index(task, status)
        self._draft.index.extend(self._draft.messages.use(task, None))
        self._draft.signal(task, "ended", status)
        if mine is not None:
            self._start_next()

    def _resume(self, before: Turn) -> None:
        """An answer came: a turn that stood still runs again, with the time it was given at first.

        It stands still as long as one of its calls is stalled, whichever others are answered.
        """
        task = before.task
        if before.stalled and not self._draft.current().stalled:
            deadline_ms = self._draft.given.now_ms + task.allowed_ms
            self._draft.record(TurnResumed(deadline_ms=deadline_ms))
            self._draft.timers.append(self._draft.messages.deadline_timer(task, deadline_ms))
            self._draft.write_index(task, "accepted")
