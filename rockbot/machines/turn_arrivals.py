"""What comes to a conversation from outside: new tasks, cancellations, and timers.

A new task starts at once, waits, joins the running turn, answers its question, or takes its place.
"""

from __future__ import annotations

from rockbot.events.content import text_of
from rockbot.events.control import CancelTask
from rockbot.events.tasks import TimerDue
from rockbot.machines import turn_errors
from rockbot.machines.steering import arrival
from rockbot.machines.turn_answers import STALL_LIMIT, gave_up
from rockbot.machines.turn_decisions import answer_question, out_of_time
from rockbot.machines.turn_draft import TurnDraft
from rockbot.machines.turn_ends import end, start_next
from rockbot.machines.turn_records import TaskAccepted, TaskJoined
from rockbot.machines.turn_state import Conversation, Task, Turn

__all__ = ["accept", "cancel", "timer"]


def accept(draft: TurnDraft, task: Task, *, refused: str | None = None) -> None:
    """A new task. `refused` is why it must not begin: it was cancelled before it came."""
    draft.record(TaskAccepted(task=task))
    draft.write_index(task, "accepted")
    draft.write(draft.messages.under_root(task))
    draft.write(draft.messages.use(task, draft.now_ms))
    if refused is not None:
        end(draft, task, "canceled", error=turn_errors.canceled(refused, ""))
        return
    if task.deadline_ms <= draft.now_ms:
        end(draft, task, "expired", error=turn_errors.late_on_arrival())
        return
    agent = draft.agent(task)
    what = arrival(draft.state, task, task.mode or agent.when_busy, max_waiting=agent.max_waiting)
    if what == "busy":
        end(draft, task, "failed", error=turn_errors.busy(len(draft.state.waiting) - 1))
        return
    draft.set_timer(task, task.deadline_ms)
    match what:
        case "start":
            draft.signal(task, "accepted", "")
            start_next(draft)
        case "wait":
            draft.signal(task, "queued", "waiting for the task before it in this conversation")
        case "interrupt":
            running = draft.current().task
            draft.signal(task, "accepted", f"interrupts the task {running.id}")
            end(draft, running, "canceled", error=turn_errors.interrupted(task.id), then=task.id)
        case "answer" if text := text_of(task.parts):
            question = draft.current().asking[0]
            draft.record(TaskJoined(task_id=task.id, heard=True))
            draft.signal(task, "steered", f"answers a question of the task {draft.current().task.id}")
            answer_question(draft, question, text, by=task.user or f"task {task.id}")
        case _:
            draft.record(TaskJoined(task_id=task.id))
            draft.signal(task, "queued", f"joins the task {draft.current().task.id} at its next model call")


def cancel(draft: TurnDraft, event: CancelTask) -> None:
    """End a task as canceled, wherever it is; one that has ended, or is not known, stays as it is."""
    task = next((each for each in _under_way(draft.state) if each.id == event.task_id), None)
    if task is None:
        draft.ignore(event.type_name)
        return
    end(draft, task, "canceled", error=turn_errors.canceled(event.reason, event.by))


def timer(draft: TurnDraft, event: TimerDue) -> None:
    """Something fell due. A timer that was moved after it was published carries an instant that no longer counts."""
    turn, due = draft.state.turn, (event.timer_id, event.due_ms)
    if turn is not None and _within_turn(draft, turn, due):
        return
    for task in _under_way(draft.state):
        mine = turn is not None and turn.task.id == task.id
        deadline_ms = turn.deadline_ms if turn is not None and mine else task.deadline_ms
        if (draft.messages.timer_id(task), deadline_ms) != due:
            continue
        if turn is not None and mine and turn.stalled:
            end(draft, task, "failed", error=turn_errors.never_mended(STALL_LIMIT, turn.stalled[-1].reason))
        else:
            end(draft, task, "expired", error=turn_errors.late(task.allowed_ms))
        return
    draft.ignore(event.type_name)


def _within_turn(draft: TurnDraft, turn: Turn, due: tuple[str, int]) -> bool:
    """Whether it was a timer of the running turn's calls, or of its wall clock."""
    task, messages = turn.task, draft.messages
    for call in turn.pending:
        if call.asks is not None and (messages.timer_id(task, "ask", call.id), call.asks.expires_ms) == due:
            out_of_time(draft, call)
            return True
        given_up = call.under_way and (messages.timer_id(task, "call", call.id), call.deadline_ms) == due
        if given_up and call.id not in {each.id for each in turn.stalled}:
            gave_up(draft, turn, call)
            return True
    if due[0] == messages.timer_id(task, "notice"):
        draft.ignore(TimerDue.type_name)
        draft.signal(task, "limit", f"80 % of the {draft.agent(task).max_seconds or 0:g} s of wall clock are over")
        return True
    return False


def _under_way(state: Conversation) -> list[Task]:
    """Every task that has not ended."""
    turn = state.turn
    running = [turn.task, *(each.task for each in turn.joined)] if turn is not None else []
    return [*running, *state.waiting]
