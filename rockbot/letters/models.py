"""What the dead-letter service is asked and what it answers, the same for library, gateway and command line."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rockbot.operators.models import BodyEncoding, LetterDetail, LetterSummary
from rockbot_messaging.envelope import HeaderValue

__all__ = [
    "Action",
    "AuditEntry",
    "Edit",
    "ExportedLetter",
    "GroupInfo",
    "LetterFilter",
    "LetterPage",
    "LetterRow",
    "LetterView",
    "Progress",
    "QueueSummary",
    "ReplayOptions",
    "TurnInfo",
]

#: What can be done to letters; the word in audit entries and measures.
Action = Literal["replay", "edit", "discard", "restore", "purge", "import", "expire", "restart-turn"]


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LetterFilter(_Asked):
    """Which letters; every field that is given must fit.

    `queue` is a subscription's or queue's name, None for every queue (unrouted included, discarded not). `ids` are whole
    ids or beginnings of at least six characters, or the ids that publishers outside gave their messages. `type`, `error` and
    `handler` match whole names, `topic` a topic pattern (``*``, ``#``). `text` is looked for, ignoring case, in reason, topic,
    type, source, correlation id, the publisher's own id and the beginning of the body.
    `group` is a group's id. Instants are epoch milliseconds of death, `since_ms` inclusive, `before_ms` exclusive.
    """

    queue: str | None = None
    ids: tuple[str, ...] = ()
    type: str | None = None
    error: str | None = None
    handler: str | None = None
    topic: str | None = None
    conversation: str | None = None
    task: str | None = None
    text: str | None = None
    group: str | None = None
    since_ms: int | None = None
    before_ms: int | None = None


class LetterRow(LetterSummary):
    """One dead letter in the index, without its body. `excerpt` is the beginning of the body."""

    group: str
    handler: str = ""
    source: str = ""
    tenant: str = ""
    conversation_id: str | None = None
    root_task_id: str | None = None
    traceparent: str | None = None
    foreign_id: str | None = None
    correlation_id: str | None = None
    excerpt: str = ""
    #: Of a discarded letter: the queue that it lay in, when it was put away, and why.
    discarded_from: str = ""
    discarded_ms: int | None = None
    discarded_reason: str = ""


class LetterPage(_Told):
    """Some rows, newest death first or oldest first as asked; `next` continues, `total` counts all that fit."""

    letters: tuple[LetterRow, ...]
    total: int
    next: str | None = None


class QueueSummary(_Told):
    """A dead-letter queue: `depth` is the broker's count; the rest is from the index (None: empty, or not scanned yet).

    `per_hour` counts the letters of the last hour. `indexed` is how many letters the index has; `scanned_ms` when it was last
    compared with the broker.
    """

    name: str
    subscription: str
    depth: int
    oldest_ms: int | None = None
    newest_ms: int | None = None
    per_hour: int = 0
    indexed: int = 0
    scanned_ms: int | None = None


class GroupInfo(_Told):
    """Letters that died of the same thing: same queue, error class, normalised reason, handler and type."""

    id: str
    queue: str
    error_type: str
    reason: str
    handler: str
    type: str
    count: int
    oldest_ms: int
    newest_ms: int
    example: str


class TurnInfo(_Told):
    """The turn that a letter belongs to. `state` is the turn's, `ended` whether it can no longer be resumed."""

    conversation_id: str
    task_id: str
    agent: str = ""
    state: str = ""
    ended: bool = False


class LetterView(LetterDetail):
    """One dead letter whole, with what else is known about it."""

    group: str = ""
    handler: str = ""
    traceparent: str | None = None
    turn: TurnInfo | None = None
    #: Names of what an edit may not change, may change with care, may change.
    locked: tuple[str, ...] = ()
    sensitive: tuple[str, ...] = ()
    discarded_ms: int | None = None
    discarded_reason: str = ""


class ReplayOptions(_Asked):
    """How letters are sent on.

    Args:
        rate: letters per second at most; None for as fast as the broker confirms.
        new_id: give each a new id, so that receivers do not take it for a copy; refused for steps of a turn.
        dry_run: say what would be done, and do nothing.
        restart_turn: where a letter's turn has ended, start its task anew (a new task) instead of sending on the step.
    """

    rate: float | None = Field(default=None, gt=0)
    new_id: bool = False
    dry_run: bool = False
    restart_turn: bool = False


class Edit(_Asked):
    """A mended letter. What is None stays.

    `headers` are the free ones, as they shall be; the others are sensitive and need `careful`. The body must be valid for the
    message's type (the edited one), unless `unchecked`.
    """

    body: str | None = None
    body_encoding: BodyEncoding = "utf-8"
    headers: dict[str, HeaderValue] | None = None
    type: str | None = None
    content_type: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    deadline_ms: int | None = None
    careful: bool = False
    unchecked: bool = False


class Progress(_Told):
    """How far a long action is; the last one has `done`.

    `total` is what was expected at the start. `refused` are letters that stayed and why, the first hundred.
    `ended_turns` counts letters that were not sent on because their turn has ended.
    """

    action: Literal["scan", "replay", "discard", "restore", "purge", "export", "import", "expire"]
    queue: str = ""
    total: int = 0
    seen: int = 0
    worked: int = 0
    refusals: int = 0
    refused: tuple[tuple[str, str], ...] = ()
    ended_turns: int = 0
    dry_run: bool = False
    done: bool = False


class ExportedLetter(_Told):
    """One letter as a line of JSON: everything that is needed to put it back into a dead-letter queue."""

    version: Literal[1] = 1
    queue: str
    #: The packed envelope (`rockbot_messaging.packing`), base64; `body` is in it.
    envelope: str
    reason: str
    origin: str = ""
    topic: str = ""
    at_ms: int
    attempt: int = 1
    error_type: str = ""
    traceback: str = ""
    history: tuple[str, ...] = ()
    broker: str = ""
    handler: str = ""
    problem: str = ""
    #: For people; not read back.
    id: str = ""
    body: str = ""
    body_encoding: BodyEncoding = "utf-8"


class AuditEntry(_Told):
    """Who did what to how many letters. `letters` names at most a hundred of them."""

    at_ms: int
    action: Action
    actor: str
    queue: str
    count: int
    letters: tuple[str, ...] = ()
    reason: str = ""
    detail: str = ""
