"""The typed contracts of the host: every event it sends or receives. Loads pydantic and nothing heavier."""

from __future__ import annotations

from typing import Final

from rockbot.events.approvals import ApprovalDecision, ApprovalKind, ApprovalRequest, DecisionKind
from rockbot.events.content import (
    ContentPart,
    FilePart,
    ImagePart,
    JsonPart,
    Message,
    MessagePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    origins_of,
    stamped,
    text_of,
)
from rockbot.events.control import CancelTask, ControlCancel, ControlReload
from rockbot.events.event import Event
from rockbot.events.models import LlmDelta, LlmRequest, LlmResponse, SegmentRef, StopReason, Usage
from rockbot.events.registry import EventRegistry, InvalidEvent, UnknownType
from rockbot.events.tasks import (
    AgentResponse,
    AgentStatus,
    AgentTask,
    ErrorInfo,
    StatusKind,
    StepExpired,
    StepRefused,
    StepStalled,
    TaskLane,
    TaskMode,
    TaskOutcome,
    TimerDue,
)
from rockbot.events.tools import ToolInvoke, ToolResult, ToolSpec

__all__ = [
    "HOST_EVENTS",
    "AgentResponse",
    "AgentStatus",
    "AgentTask",
    "ApprovalDecision",
    "ApprovalKind",
    "ApprovalRequest",
    "CancelTask",
    "ContentPart",
    "ControlCancel",
    "ControlReload",
    "DecisionKind",
    "ErrorInfo",
    "Event",
    "EventRegistry",
    "FilePart",
    "ImagePart",
    "InvalidEvent",
    "JsonPart",
    "LlmDelta",
    "LlmRequest",
    "LlmResponse",
    "Message",
    "MessagePart",
    "SegmentRef",
    "StatusKind",
    "StepExpired",
    "StepRefused",
    "StepStalled",
    "StopReason",
    "TaskLane",
    "TaskMode",
    "TaskOutcome",
    "TextPart",
    "ThinkingPart",
    "TimerDue",
    "ToolCallPart",
    "ToolInvoke",
    "ToolResult",
    "ToolResultPart",
    "ToolSpec",
    "UnknownType",
    "Usage",
    "origins_of",
    "stamped",
    "text_of",
]

#: The events every host knows; handlers add theirs.
HOST_EVENTS: Final[tuple[type[Event], ...]] = (
    AgentTask,
    AgentResponse,
    AgentStatus,
    StepStalled,
    StepExpired,
    StepRefused,
    CancelTask,
    ControlCancel,
    ControlReload,
    ApprovalRequest,
    ApprovalDecision,
    LlmRequest,
    LlmResponse,
    LlmDelta,
    ToolInvoke,
    ToolResult,
    TimerDue,
)
