"""Why a task ends without having been completed: every code that programs may look at, with its sentence for people.

And why a tool call is not made, with its sentence for the model.
"""

from __future__ import annotations

from rockbot.events.content import ToolCallPart
from rockbot.events.models import StopReason
from rockbot.events.tasks import ErrorInfo
from rockbot.machines.limits import LimitName

__all__ = [
    "busy",
    "canceled",
    "forbidden",
    "interrupted",
    "invalid_output",
    "late",
    "late_on_arrival",
    "late_step",
    "model_stopped",
    "never_mended",
    "no_answer",
    "no_room",
    "over_limit",
    "too_large",
    "uncallable",
]


def busy(waiting: int) -> ErrorInfo:
    return ErrorInfo(code="busy", message=f"{waiting} tasks wait in this conversation already; ask again later")


def late_on_arrival() -> ErrorInfo:
    return ErrorInfo(code="expired", message="the deadline had passed on arrival")


def late_step() -> ErrorInfo:
    return ErrorInfo(code="expired", message="the deadline passed before a step began")


def late(allowed_ms: int) -> ErrorInfo:
    return ErrorInfo(code="expired", message=f"not finished within {allowed_ms / 1000:g} s")


def never_mended(limit: float, reason: str) -> ErrorInfo:
    """`limit` is in seconds."""
    days = int(limit // 86_400)
    return ErrorInfo(code="stalled", message=f"a failed step was not sent on within {days} days: {reason}")


def no_room(problem: str) -> ErrorInfo:
    """The transcript is too long for the model, and `problem` is why it could not be summarised."""
    return ErrorInfo(
        code="context_window", message=f"the conversation no longer fits the model's context window, and {problem}"
    )


def too_large(what: str, limit: int | None) -> ErrorInfo:
    """`what` would have had a body of more than `limit` bytes."""
    return ErrorInfo(code="too_large", message=f"{what} would exceed the {limit} bytes that a message may have")


def over_limit(name: LimitName, limit: float) -> ErrorInfo:
    what = {"model_calls": "model calls", "tool_calls": "tool calls", "tokens": "tokens", "cost": "in money"}[name]
    return ErrorInfo(code="limit", message=f"the limit of {limit:g} {what} for one task is reached")


def canceled(reason: str, by: str) -> ErrorInfo:
    who = f" by {by}" if by else ""
    return ErrorInfo(code="canceled", message=f"canceled{who}{': ' + reason if reason else ''}")


def interrupted(task_id: str) -> ErrorInfo:
    """`task_id` is the task that was let in instead."""
    return ErrorInfo(code="interrupted", message=f"another task of this conversation interrupted it: {task_id}")


def no_answer(tool: str, seconds: float) -> str:
    """What the model is told of a call that nobody answered in time."""
    return f"no answer of {tool} came within {seconds:g} s; whether it did anything is not known"


def forbidden(tool: str, reason: str) -> str:
    """What the model is told of a call that the agent's policy denies."""
    return f"{tool} was not called, because that is not allowed{': ' + reason if reason else ''}"


def uncallable(asked: ToolCallPart, known: set[str]) -> str:
    """What the model is told when its call cannot be made: no such tool, or unreadable arguments; empty when it can."""
    if asked.tool not in known:
        return f"there is no tool {asked.tool!r}; the tools are: {', '.join(sorted(known)) or 'none'}"
    return f"the tool was not called: {asked.problem}" if asked.problem else ""


def invalid_output(problem: str) -> ErrorInfo:
    """The answer is not of the shape that the task asked for."""
    return ErrorInfo(
        code="invalid_output", message=f"the answer is not what the task's output_schema asks for: {problem}"
    )


def model_stopped(reason: StopReason, *, wants_tools: bool) -> ErrorInfo | None:
    """Why a reply that ended like this cannot be gone on with, or None when it can.

    A cut text is an answer all the same; cut tool calls may lack arguments, so none of them is made.
    """
    match reason:
        case "refusal":
            return ErrorInfo(code="refused", message="the model refused to answer")
        case "context_window":
            return ErrorInfo(
                code="context_window", message="the conversation no longer fits the model's context window"
            )
        case "max_tokens" if wants_tools:
            return ErrorInfo(
                code="max_tokens",
                message="the model's reply was cut at its limit of output tokens while it called tools; none was called",
            )
    return None
