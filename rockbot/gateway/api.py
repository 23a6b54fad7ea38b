"""What travels between the gateway and its clients, besides the operator's own models.

Bodies of messages are bytes of any kind, so they travel as base64 unless the sender says that they are UTF-8 text.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from rockbot.events.tasks import AgentResponse, AgentStatus
from rockbot.history import TaskFilter
from rockbot.operators.faults import InvalidRequest, Problem
from rockbot.operators.models import BodyEncoding, ReplyPiece, body_bytes
from rockbot_messaging.envelope import HeaderValue

__all__ = [
    "MEDIA_TYPE_EVENTS",
    "MEDIA_TYPE_LINES",
    "VERSION",
    "AskLine",
    "AskRequest",
    "ErrorBody",
    "Health",
    "PublishRequest",
    "TaskQuery",
    "request_limit",
]

#: First segment of every path.
VERSION: Final = "v1"
#: A stream of JSON values, one a line.
MEDIA_TYPE_LINES: Final = "application/x-ndjson"
#: The same as server-sent events, for those who ask for them.
MEDIA_TYPE_EVENTS: Final = "text/event-stream"
#: What a request holds besides a body: topic, headers, ids, or a few letters to import.
_ROOM: Final = 4 << 20


def request_limit(max_body_bytes: int) -> int:
    """Bytes that an HTTP request may have so that a message of `max_body_bytes` fits into it as base64."""
    return 4 * ((max_body_bytes + 2) // 3) + _ROOM


class _Given(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishRequest(_Given):
    """Publish one message. `type` empty leaves it to the topic."""

    topic: str
    body: str = ""
    body_encoding: BodyEncoding = "utf-8"
    type: str = ""
    correlation_id: str | None = None
    conversation_id: str | None = None
    headers: dict[str, HeaderValue] = Field(default_factory=dict)

    @property
    def bytes(self) -> bytes:
        """The message's body."""
        try:
            return body_bytes(self.body, self.body_encoding)
        except ValueError:
            raise InvalidRequest("the body is announced as base64 and is not") from None


class AskRequest(_Given):
    """Give an agent a task. `timeout` (seconds) bounds the waiting, not the task; `stream` adds what its model says meanwhile."""

    text: str = Field(min_length=1)
    conversation_id: str | None = Field(default=None, min_length=1, max_length=200)
    timeout: float | None = Field(default=None, gt=0, le=30 * 86400)
    stream: bool = False


class Health(BaseModel):
    """The gateway answers."""

    status: Literal["ok"] = "ok"
    version: str


class ErrorBody(BaseModel):
    """Every answer that is not 2xx."""

    error: Problem


class StatusLine(BaseModel):
    """A step of the task."""

    kind: Literal["status"] = "status"
    status: AgentStatus


class PieceLine(BaseModel):
    """What the model said meanwhile."""

    kind: Literal["piece"] = "piece"
    piece: ReplyPiece


class ResponseLine(BaseModel):
    """The answer; the last line."""

    kind: Literal["response"] = "response"
    response: AgentResponse


class ErrorLine(BaseModel):
    """What ended the stream before there was an answer; the last line."""

    kind: Literal["error"] = "error"
    error: Problem


AskLine = Annotated[StatusLine | PieceLine | ResponseLine | ErrorLine, Field(discriminator="kind")]


class TaskQuery(TaskFilter):
    """A filter of tasks with a page."""

    limit: int = Field(default=50, ge=1, le=1000)
    after: str | None = None

    @property
    def which(self) -> TaskFilter:
        """The filter alone."""
        return TaskFilter(**{name: getattr(self, name) for name in TaskFilter.model_fields})
