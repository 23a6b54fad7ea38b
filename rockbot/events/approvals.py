"""What a turn asks people: whether a tool may be called, and questions; and what they decide."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from rockbot.events.event import Event
from rockbot_messaging.ports import Door

__all__ = ["ApprovalDecision", "ApprovalKind", "ApprovalRequest", "DecisionKind"]

ApprovalKind = Literal["approval", "question"]
DecisionKind = Literal["approve", "deny", "answer"]


class ApprovalRequest(Event):
    """A turn waits for a person. May be lost; the open ones are rows of the state store, too.

    `text` says why approval is needed, or is the question; `choices` are answers that are suggested. After `expires_ms`
    an approval counts as denied and a question as unanswered.
    """

    type_name: ClassVar[str] = "rockbot.approval.request"
    topics: ClassVar[tuple[str, ...]] = ("approval.request.*",)
    door: ClassVar[Door] = Door.LOSSY

    approval_id: str
    kind: ApprovalKind = "approval"
    task_id: str
    conversation_id: str
    agent: str
    tool: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    argument_hash: str = ""
    text: str = ""
    choices: tuple[str, ...] = ()
    user: str = ""
    asked_ms: int = 0
    expires_ms: int = 0


class ApprovalDecision(Event):
    """A person's decision on one open approval or question.

    `argument_hash` is that of the arguments that were looked at: a decision on other ones is refused (empty: not
    checked). `arguments` replace the model's in an approved call. `text` is told to the model: the reason of a denial, or the
    answer. `always` approves this tool for the rest of the conversation. `by` is who decided.
    """

    type_name: ClassVar[str] = "rockbot.approval.decision"
    topics: ClassVar[tuple[str, ...]] = ("approval.decision.*",)

    approval_id: str = Field(min_length=1)
    decision: DecisionKind
    arguments: dict[str, Any] | None = None
    text: str = ""
    always: bool = False
    by: str = ""
    argument_hash: str = ""
