"""Dead letters as blocks: which facts of a letter, a group, a queue people see, and which command comes next."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from rockbot.cli.render import Block, Facts, Grid, Prose
from rockbot.cli.views import instant
from rockbot_messaging.tracing import trace_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rockbot.letters.models import AuditEntry, GroupInfo, LetterRow, LetterView, QueueSummary

__all__ = [
    "audit_blocks",
    "discarded_blocks",
    "group_blocks",
    "letter_blocks",
    "queue_blocks",
    "row_blocks",
]

#: Bytes of a binary body that are shown.
_HEX_SHOWN = 1024


def queue_blocks(queues: Sequence[QueueSummary]) -> list[Block]:
    """Dead-letter queues, how much lies in them and since when."""
    rows = [
        (
            queue.subscription,
            str(queue.depth),
            str(queue.per_hour),
            instant(queue.oldest_ms),
            instant(queue.newest_ms),
            queue.name,
        )
        for queue in queues
    ]
    columns = ("SUBSCRIPTION", "LETTERS", "LAST HOUR", "OLDEST", "NEWEST", "QUEUE")
    return [Grid(columns, rows, empty="no dead-letter queues", optional=("QUEUE", "OLDEST"))]


def row_blocks(letters: Sequence[LetterRow]) -> list[Block]:
    """Dead letters, one a line."""
    rows = [
        (letter.queue, letter.id, instant(letter.at_ms), letter.topic, str(letter.attempt), letter.reason)
        for letter in letters
    ]
    return [
        Grid(
            ("QUEUE", "ID", "DIED", "TOPIC", "ATTEMPT", "REASON"),
            rows,
            empty="no dead letters",
            short=("ID",),
            optional=("TOPIC", "ATTEMPT"),
        )
    ]


def discarded_blocks(letters: Sequence[LetterRow]) -> list[Block]:
    """Discarded letters, one a line."""
    rows = [
        (
            letter.id,
            letter.discarded_from,
            instant(letter.discarded_ms),
            letter.discarded_reason,
            instant(letter.at_ms),
            letter.topic,
            letter.reason,
        )
        for letter in letters
    ]
    return [
        Grid(
            ("ID", "LAY IN", "PUT AWAY", "WHY", "DIED", "TOPIC", "REASON"),
            rows,
            empty="no discarded letters",
            short=("ID",),
            optional=("DIED", "TOPIC"),
        )
    ]


def group_blocks(groups: Sequence[GroupInfo]) -> list[Block]:
    """What letters died of, the largest group first, and the commands to go on with."""
    blocks: list[Block] = []
    for group in groups:
        if blocks:
            blocks.append(Prose(""))
        blocks.append(
            Facts(
                (
                    ("error", group.error_type),
                    ("handler", group.handler),
                    ("type", group.type),
                    ("queue", group.queue),
                    ("died", _between(group.oldest_ms, group.newest_ms)),
                    ("read one", f"rockbot dlq show {_word(group.queue)} {_word(group.example)}"),
                    ("list", f"rockbot dlq list --group {group.id}"),
                    ("send on", f"rockbot dlq replay --group {group.id}"),
                    ("put away", f"rockbot dlq discard --group {group.id} --reason '...'"),
                ),
                title=f"{group.count} x {group.reason or 'no reason'}",
            )
        )
    return blocks or [Prose("no dead letters")]


def letter_blocks(letter: LetterView) -> list[Block]:
    """One dead letter: why, whence, what it says, and how to send it on."""
    title, text = _body(letter)
    return [
        Facts(
            (
                ("reason", letter.reason),
                ("error", letter.error_type),
                ("handler", letter.handler),
                ("unreadable", letter.problem),
                ("died", instant(letter.at_ms)),
                ("attempts", str(letter.attempt)),
                ("topic", letter.topic),
                ("queue", letter.origin or "none: nobody received the topic"),
                ("id", letter.id),
                ("sender's id", letter.foreign_id or ""),
                ("type", letter.type or "none (told by the topic)"),
                ("group", letter.group),
                ("published", instant(letter.published_ms)),
                ("source", letter.source),
                ("tenant", "" if letter.tenant == "default" else letter.tenant),
                ("conversation", letter.conversation_id or ""),
                ("turn", _turn(letter)),
                ("task", letter.root_task_id or ""),
                ("correlation", letter.correlation_id or ""),
                ("reply to", letter.reply_to or ""),
                ("deadline", instant(letter.deadline_ms)),
                ("trace", trace_id(letter.traceparent)),
                ("content", letter.content_type),
                ("headers", "\n".join(f"{name}: {value}" for name, value in letter.headers.items())),
                ("broker", letter.broker),
                ("discarded", _discarded(letter)),
            )
        ),
        *([Prose("\n".join(letter.history), "history")] if letter.history else []),
        *([Prose(letter.traceback, "traceback", "dim")] if letter.traceback else []),
        Prose(text, title),
        _next_commands(letter),
    ]


def audit_blocks(entries: Sequence[AuditEntry]) -> list[Block]:
    """Who did what, the latest first."""
    rows = [
        (
            instant(entry.at_ms),
            entry.action,
            entry.actor,
            entry.queue or "every queue",
            str(entry.count),
            "; ".join(part for part in (entry.reason, entry.detail) if part),
        )
        for entry in entries
    ]
    return [Grid(("AT", "ACTION", "BY", "QUEUE", "LETTERS", "WHY"), rows, empty="nothing was done to letters yet")]


def _next_commands(letter: LetterView) -> Prose:
    where = f"{_word(letter.queue)} {_word(letter.id)}"
    if letter.discarded_ms is not None:
        return Prose(f"rockbot dlq restore {_word(letter.id)}", "put it back")
    mended = "--edit" if letter.body_encoding == "utf-8" else "--file PATH"
    lines = [
        f"as it is:   rockbot dlq replay {where}",
        f"mended:     rockbot dlq replay {where} {mended}",
    ]
    if letter.turn is not None and letter.turn.ended:
        lines.append(f"anew:       rockbot dlq replay {where} --restart-turn")
    lines.append(f"never:      rockbot dlq discard {where} --reason '...'")
    if letter.sensitive:
        lines.append(f"with care:  --careful lets an edit change {', '.join(letter.sensitive)}")
    if letter.locked:
        lines.append(f"fixed:      {', '.join(letter.locked)}")
    return Prose("\n".join(lines), "send it on")


def _word(text: str) -> str:
    """As a shell takes it."""
    return shlex.quote(text)


def _between(oldest_ms: int, newest_ms: int) -> str:
    first, last = instant(oldest_ms), instant(newest_ms)
    if not first:  # unrouted messages of publishers that write no timestamp: the broker notes none either
        return f"not known when; the last one with a time {last}" if last else "not known when"
    return first if first == last else f"{first} to {last}"


def _turn(letter: LetterView) -> str:
    turn = letter.turn
    if turn is None:
        return ""
    whose = f" of {turn.agent}" if turn.agent else ""
    what = "has ended: " if turn.ended else ""
    return f"{what}{turn.state or 'unknown'}{whose} (task {turn.task_id})"


def _discarded(letter: LetterView) -> str:
    if letter.discarded_ms is None:
        return ""
    return f"{instant(letter.discarded_ms)}: {letter.discarded_reason or 'no reason was given'}"


def _body(letter: LetterView) -> tuple[str, str]:
    body = letter.body_bytes
    if not body:
        return "body", "(empty)"
    if letter.body_encoding == "base64":
        more = f" of {len(body)}" if len(body) > _HEX_SHOWN else ""
        return f"body (binary, first {min(len(body), _HEX_SHOWN)}{more} bytes)", _hex(body[:_HEX_SHOWN])
    try:
        value = json.loads(letter.body)
    except ValueError:
        return f"body ({len(body)} bytes of text)", letter.body
    return f"body ({len(body)} bytes of JSON)", json.dumps(value, indent=2, ensure_ascii=False)


def _hex(data: bytes) -> str:
    lines = []
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:08x}  {part.hex(' '):<47}  {text}")
    return "\n".join(lines)
