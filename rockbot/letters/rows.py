"""A dead letter as a row: the few fields that listing, filtering and grouping need, cheap to read a hundred thousand times.

The recorder makes rows from what a host buried, the scanner from what lies in the broker, an action from what it is shown;
all of them here, so that the same letter gives the same row.
"""

from __future__ import annotations

import codecs
import json
from typing import Any, Final, TypedDict, cast

from pydantic_core import from_json

from rockbot.events import (
    AgentTask,
    LlmRequest,
    LlmResponse,
    StepExpired,
    StepStalled,
    TimerDue,
    ToolInvoke,
    ToolResult,
)
from rockbot.letters.groups import group_id, normalise
from rockbot.letters.models import LetterRow
from rockbot_messaging.letters import Letter
from rockbot_messaging.topics import TopicPattern

__all__ = [
    "EXCERPT",
    "Fields",
    "decode",
    "encode",
    "foreign_id_of",
    "group_of",
    "is_step",
    "is_step_row",
    "is_task",
    "model_of",
    "row_of",
    "task_of",
    "topic_of",
]

#: Characters of a body that the index keeps.
EXCERPT: Final = 300
#: Bytes of a reason that the index keeps: fewer than the providers leave at the head of one that they shorten, so that a
#: row does not depend on whether it was made before or after that.
_REASON: Final = 500
_NAME: Final = 200
#: Characters of a correlation of one letter with others.
_ID: Final = 255

_STEPS: Final = frozenset(
    event.type_name for event in (LlmRequest, LlmResponse, ToolInvoke, ToolResult, StepStalled, StepExpired, TimerDue)
)


_TASKS: Final = tuple(map(TopicPattern, AgentTask.topics))
_JSON: Final = json.JSONEncoder(separators=(",", ":"))
_GROUP: Final = b'"group":"'
_FOREIGN: Final = b'"foreign":"'
_TOPIC: Final = b'"topic":"'
#: How JSON spells half a surrogate pair; whole ones (characters beyond the first plane) begin so, too.
_SURROGATE: Final = "\\ud"
#: The last field of a row.
_STEP: Final = b'"step":1}'


class Fields(TypedDict, total=False):
    """A row. What is empty is left out. `task` is the root task, of a task itself its own id; `step` says that a turn waits
    for it. `foreign` is the publisher's own id of the message, where `id` was derived from it. `lain`, `away` and `why` are of a
    discarded letter: where it lay, when it was put away, and why."""

    id: str
    topic: str
    type: str
    reason: str
    error: str
    at: int
    attempt: int
    size: int
    group: str
    handler: str
    source: str
    tenant: str
    conv: str
    task: str
    trace: str
    foreign: str
    corr: str
    excerpt: str
    lain: str
    away: int
    why: str
    step: int


def is_step(letter: Letter) -> bool:
    """Whether this is one step of a turn: something waits for its answer under its very id."""
    return letter.envelope.return_address is not None or letter.envelope.type in _STEPS


def is_task(letter: Letter) -> bool:
    """Whether this is a task, which nobody has accepted."""
    envelope = letter.envelope
    if envelope.type:
        return envelope.type == AgentTask.type_name
    return any(pattern.matches(envelope.topic) for pattern in _TASKS)


def task_of(letter: Letter) -> str:
    """The root task that a letter belongs to, or the task that it is; empty: none."""
    return letter.envelope.root_task_id or (letter.id if is_task(letter) else "")


def row_of(letter: Letter, queue: str, *, lain: str = "") -> Fields:
    """The row of a letter of `queue` (the short name that commands take); of a discarded one, `lain` is where it lay before."""
    put_away = letter.discarded if lain else None
    envelope, failure = letter.envelope, letter.failure
    reason = _cut(failure.reason)
    error, handler, kind = failure.error_type[:_NAME], failure.handler[:_NAME], envelope.type
    row = {
        "id": letter.id,
        "topic": failure.topic or envelope.topic,
        "type": kind,
        "reason": reason,
        "error": error,
        "at": failure.at_ms,
        "attempt": failure.attempt,
        "size": len(envelope.body),
        "group": group_id(lain or queue, error, normalise(reason), handler, kind),
        "handler": handler,
        "source": envelope.source,
        "tenant": envelope.tenant,
        "conv": (envelope.conversation_id or "")[:_ID],
        "task": task_of(letter)[:_ID],
        "trace": envelope.traceparent or "",
        "foreign": (envelope.foreign_id or "")[:_ID],
        "corr": (envelope.correlation_id or "")[:_ID],
        "excerpt": _excerpt(envelope.body),
        "lain": lain,
        "away": put_away.at_ms if put_away else 0,
        "why": _cut(put_away.reason) if put_away else "",
        "step": int(is_step(letter)),
    }
    return cast("Fields", {name: value for name, value in row.items() if value})


def encode(row: Fields) -> bytes:
    """A row as its value in the store: ASCII, whatever the texts are; a lone surrogate becomes U+FFFD."""
    text = _JSON.encode(row)
    if _SURROGATE in text:
        whole = {name: _sayable(value) if isinstance(value, str) else value for name, value in row.items()}
        text = _JSON.encode(whole)
    return text.encode()


def decode(value: bytes) -> Fields:
    """The reverse of `encode`; a value that is none is an empty row, which nothing fits and the next scan mends."""
    try:
        row: Any = from_json(value)  # three times as fast as the standard library's, and the index is nothing but this
    except ValueError:
        return {}
    return cast("Fields", row) if isinstance(row, dict) else {}


def group_of(value: bytes) -> str:
    """The group of a stored row, without decoding it: what is looked for cannot be part of a text."""
    return _between(value, _GROUP)


def topic_of(value: bytes) -> str:
    """The topic of a stored row, without decoding it. (One that JSON has to escape is no legal topic and fits no pattern.)"""
    return _between(value, _TOPIC)


def foreign_id_of(value: bytes) -> str:
    """The publisher's own id in a stored row; only one that JSON has to escape is worth decoding the row for."""
    found = _between(value, _FOREIGN)
    return decode(value).get("foreign", "") if "\\" in found else found


def is_step_row(value: bytes) -> bool:
    """Whether a stored row is that of a step of a turn."""
    return value.endswith(_STEP)


def model_of(row: Fields, queue: str) -> LetterRow:
    """A row as people and programs are told it."""
    return LetterRow(
        id=row.get("id", ""),
        queue=queue,
        topic=row.get("topic", ""),
        type=row.get("type", ""),
        reason=row.get("reason", ""),
        error_type=row.get("error", ""),
        at_ms=row.get("at", 0),
        attempt=row.get("attempt", 1),
        body_size=row.get("size", 0),
        group=row.get("group", ""),
        handler=row.get("handler", ""),
        source=row.get("source", ""),
        tenant=row.get("tenant", ""),
        conversation_id=row.get("conv"),
        root_task_id=row.get("task"),
        traceparent=row.get("trace"),
        foreign_id=row.get("foreign"),
        correlation_id=row.get("corr"),
        excerpt=row.get("excerpt", ""),
        discarded_from=row.get("lain", ""),
        discarded_ms=row.get("away"),
        discarded_reason=row.get("why", ""),
    )


def _between(value: bytes, begin: bytes) -> str:
    at = value.find(begin)
    if at < 0:
        return ""
    at += len(begin)
    return value[at : value.find(b'"', at)].decode()


def _sayable(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _cut(reason: str) -> str:
    raw = reason.encode("utf-8", "replace")
    return raw.decode() if len(raw) <= _REASON else raw[:_REASON].decode("utf-8", "ignore") + " ..."


def _excerpt(body: bytes) -> str:
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(body[: 4 * EXCERPT])[:EXCERPT]
    except UnicodeDecodeError:
        return ""
