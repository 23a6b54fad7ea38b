"""Asking people, purely: what is asked, what a decision must be to count, and what the model is told of it."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rockbot.events.approvals import ApprovalDecision
from rockbot.events.tools import ToolSpec
from rockbot.machines.turn_state import Ask

__all__ = ["ASK_USER", "TIMER", "Question", "denial", "objection", "question_of", "unanswered"]

#: The tool by which a model asks people. No worker has it: the turn itself waits for the answer.
ASK_USER: Final = ToolSpec(
    name="ask_user",
    description=(
        "Ask the person you work for one question and wait for the answer. Use it when you cannot go on without something"
        " that only they know or may decide; not to report, and not for what you can find out yourself."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "question": {"type": "string", "minLength": 1, "description": "One question, complete in itself."},
            "choices": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Answers to choose from, when there are only a few. Another answer may come all the same.",
            },
        },
        "required": ["question"],
        "additionalProperties": False,
    },
    toolset="people",
    read_only=True,
)

#: Who decides when time is up.
TIMER: Final = "timer"


class Question(BaseModel):
    """The arguments of `ask_user`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    question: str = Field(min_length=1)
    choices: list[str] = Field(default_factory=list)


def question_of(arguments: dict[str, Any]) -> Question | str:
    """The question in a call of `ask_user`, or what the model is told when there is none."""
    try:
        return Question.model_validate(arguments)
    except ValidationError as exc:
        problems = (
            f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
            for error in exc.errors(include_url=False, include_input=False)
        )
        return f"the arguments do not fit the tool's schema: {'; '.join(problems)}"


def objection(ask: Ask, decision: ApprovalDecision) -> str:
    """Why a decision does not count; empty when it does."""
    if ask.kind == "question" and decision.decision == "approve":
        return "this is a question: it is answered, not approved"
    if ask.kind == "approval" and decision.decision == "answer":
        return "this is an approval: it is approved or denied, not answered"
    if decision.argument_hash and decision.argument_hash != ask.argument_hash:
        return "it was made for other arguments than those that are asked about"
    return ""


def denial(tool: str, decision: ApprovalDecision) -> str:
    """What the model is told of a call that was denied."""
    if decision.by == TIMER:
        return f"{tool} was not called: it needs a person's approval, and nobody decided in time."
    who = f" by {decision.by}" if decision.by else ""
    why = f": {decision.text}" if decision.text else "."
    return f"{tool} was not called: it was denied{who}{why}"


def unanswered(decision: ApprovalDecision) -> str:
    """What the model is told of a question that got no answer."""
    if decision.by == TIMER:
        return "Nobody answered in time."
    return f"The person does not answer{': ' + decision.text if decision.text else '.'}"
