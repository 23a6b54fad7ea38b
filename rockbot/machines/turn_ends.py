"""How tasks end, and what begins after them.

A turn that ends takes along the tasks that joined it and were heard; those that were not heard wait again. Work that is still
under way is called off, so that nobody pays for an answer that nobody reads.
"""

from __future__ import annotations

from rockbot.events.models import StopReason
from rockbot.events.tasks import ErrorInfo, TaskOutcome
from rockbot.machines.turn_answer import shortened
from rockbot.machines.turn_asking import ask_model
from rockbot.machines.turn_draft import TurnDraft
from rockbot.machines.turn_records import TurnEnded, TurnStarted
from rockbot.machines.turn_state import Task, Turn

__all__ = ["end", "start_next"]

#: The part of the wall clock after which watchers are told.
_NOTICE = 0.8


def end(
    draft: TurnDraft,
    task: Task,
    status: TaskOutcome,
    *,
    output: str = "",
    error: ErrorInfo | None = None,
    stop_reason: StopReason = "end_turn",
    then: str = "",
) -> None:
    """End a task: one that runs, one that joined it, or one that waits.

    One that runs and was not completed hands over what the model has said so far. `then` is the task that begins next, if
    that is not the first that waits.
    """
    turn = draft.state.turn
    if turn is None or turn.task.id != task.id:
        heard = turn is not None and any(each.heard and each.task.id == task.id for each in turn.joined)
        _end_one(draft, task, turn if heard else None, status, output, error, stop_reason, answered_by="")
        return
    output = output or ("" if status == "completed" else turn.said)
    draft.tell_limits()
    for each in turn.joined:
        if each.heard:
            _end_one(draft, each.task, turn, status, output, error, stop_reason, answered_by=task.id)
    _end_one(draft, task, turn, status, output, error, stop_reason, answered_by="")
    _call_off(draft, turn, error)
    start_next(draft, then)


def _end_one(
    draft: TurnDraft,
    task: Task,
    turn: Turn | None,
    status: TaskOutcome,
    output: str,
    error: ErrorInfo | None,
    stop_reason: StopReason,
    *,
    answered_by: str,
) -> None:
    draft.record(TurnEnded(task_id=task.id, status=status, output=output, error=error, answered_by=answered_by))
    response = draft.messages.response(
        task, turn, status, output=output, error=error, stop_reason=stop_reason, answered_by=answered_by
    )
    if not draft.fits(response.name):
        response = shortened(response, draft.given.body_limit or 0)
    draft.send(response)
    draft.cancel_timer(task)
    draft.write_index(task, status, turn, answered_by=answered_by)
    draft.write(draft.messages.use(task, None))
    draft.signal(task, "ended", status)


def _call_off(draft: TurnDraft, turn: Turn, error: ErrorInfo | None) -> None:
    """What a turn that has ended still waited for."""
    task = turn.task
    calls = [call for call in turn.open_calls if not draft.has_answer(call)]
    draft.answer(*calls)
    for call in turn.pending:
        draft.cancel_call_timers(task, call)
        if call.asks is not None:
            draft.asked_no_more(call.id)
    if draft.agent(task).max_seconds is not None:
        draft.cancel_timer(task, "notice")
    if calls:
        draft.send(draft.messages.stop(task, calls, error.message if error else "its task has ended"))


def start_next(draft: TurnDraft, first: str = "") -> None:
    """Start the first waiting task that can be, or `first` before it; one that cannot leaves nothing in the transcript."""
    while draft.state.waiting:
        waiting = draft.state.waiting
        task = next((each for each in waiting if each.id == first), waiting[0])
        name = f"model:{task.id}:1"
        if draft.fits(name):
            draft.record(TurnStarted(model_call=draft.id(name), task_id=task.id))
            if (seconds := draft.agent(task).max_seconds) is not None:
                draft.set_timer(task, draft.now_ms + round(seconds * 1000 * _NOTICE), "notice")
            ask_model(draft, task, name)
            return
        end(draft, task, "failed", error=draft.too_large("the request to the model"))
