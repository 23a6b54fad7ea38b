"""Results as blocks: which facts of a model people see, and in which words."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rockbot.cli.render import Block, Facts, Grid, Prose, Tone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rockbot.events.tasks import AgentStatus
    from rockbot.operators.models import (
        Diagnosis,
        LetterDetail,
        LetterSummary,
        Pipeline,
        PublishedMessage,
        QueueInfo,
    )

__all__ = [
    "diagnosis_blocks",
    "instant",
    "letter_blocks",
    "letters_blocks",
    "pipeline_blocks",
    "published_blocks",
    "queues_blocks",
    "step_line",
]

#: Bytes of a binary body that are shown.
_HEX_SHOWN = 1024
#: Characters of a step's text that are shown.
_STEP_SHOWN = 160


def instant(at_ms: int | None) -> str:
    """An instant for people, in UTC; nothing for none."""
    if not at_ms:
        return ""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(at_ms)


def queues_blocks(queues: Sequence[QueueInfo]) -> list[Block]:
    """Dead-letter queues and how much lies in them."""
    rows = [(queue.subscription, str(queue.depth), queue.name) for queue in queues]
    return [Grid(("SUBSCRIPTION", "LETTERS", "QUEUE"), rows, empty="no dead-letter queues")]


def letters_blocks(letters: Sequence[LetterSummary]) -> list[Block]:
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


def letter_blocks(letter: LetterDetail) -> list[Block]:
    """One dead letter: why, whence, what it says, and how to send it on."""
    title, text = _body(letter)
    mended = " --edit" if letter.body_encoding == "utf-8" else " --file PATH"
    return [
        Facts(
            (
                ("reason", letter.reason),
                ("error", letter.error_type),
                ("unreadable", letter.problem),
                ("died", instant(letter.at_ms)),
                ("attempts", str(letter.attempt)),
                ("topic", letter.topic),
                ("queue", letter.origin or "none: nobody received the topic"),
                ("id", letter.id),
                ("type", letter.type or "none (told by the topic)"),
                ("published", instant(letter.published_ms)),
                ("source", letter.source),
                ("tenant", "" if letter.tenant == "default" else letter.tenant),
                ("conversation", letter.conversation_id or ""),
                ("task", letter.root_task_id or ""),
                ("correlation", letter.correlation_id or ""),
                ("reply to", letter.reply_to or ""),
                ("deadline", instant(letter.deadline_ms)),
                ("headers", "\n".join(f"{name}: {value}" for name, value in letter.headers.items())),
                ("broker", letter.broker),
            )
        ),
        *([Prose("\n".join(letter.history), "history")] if letter.history else []),
        *([Prose(letter.traceback, "traceback", "dim")] if letter.traceback else []),
        Prose(text, title),
        Prose(
            f"as it is:   {letter.replay_command}\nmended:     {letter.replay_command}{mended}\n"
            f"never:      rockbot dlq discard {letter.queue} {letter.id} --reason '...'",
            "send it on",
        ),
    ]


def _body(letter: LetterDetail) -> tuple[str, str]:
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


def published_blocks(message: PublishedMessage, verb: str) -> list[Block]:
    """That a message is stored."""
    return [Prose(f"{verb} {message.message_id} to {message.topic}")]


def pipeline_blocks(pipeline: Pipeline) -> list[Block]:
    """Subscriptions, chains, failure table."""
    subscriptions = [
        (
            item.name,
            item.kind if item.consumed else "addressed",
            " ".join(item.patterns),
            str(item.concurrency or item.prefetch),
            item.retry,
            item.dead_letters,
        )
        for item in pipeline.subscriptions
    ]
    return [
        Grid(
            ("SUBSCRIPTION", "KIND", "TOPICS", "PARALLEL", "A FAILED MESSAGE", "DEAD LETTERS"),
            subscriptions,
            title="What is received",
            empty="nothing is received",
            optional=("PARALLEL", "DEAD LETTERS"),
        ),
        Prose(""),
        Grid(
            ("EVENT", "LINKS, OUTERMOST FIRST"),
            [(entry.event, " > ".join(entry.links) or "none: a dead letter") for entry in pipeline.chain],
            title="Who sees what",
        ),
        Prose(""),
        Grid(
            ("ERROR", "OUTCOME"),
            [(entry.errors, entry.outcome) for entry in pipeline.failures],
            title="What failures lead to (the first fitting row decides)",
        ),
    ]


def diagnosis_blocks(diagnosis: Diagnosis) -> list[Block]:
    """All checks, with advice under those that need it."""
    tones: dict[str, Tone] = {"ok": "", "warn": "warn", "fail": "bad"}
    rows, shades = [], []
    for check in diagnosis.checks:
        advice = f"\n-> {check.advice}" if check.advice and check.status != "ok" else ""
        rows.append((check.status, check.name, check.detail + advice))
        shades.append(tones[check.status])
    return [Grid(("STATUS", "CHECK", "FOUND"), rows, tones=shades)]


def step_line(status: AgentStatus) -> tuple[str, Tone]:
    """One step of a task in one line."""
    text = " ".join(status.text.split())
    if len(text) > _STEP_SHOWN:
        text = f"{text[:_STEP_SHOWN]} [... {len(text) - _STEP_SHOWN} more]"
    match status.kind:
        case "tool_call":
            return f"  -> {status.tool} {text}".rstrip(), "dim"
        case "tool_result":
            return f"  <- {status.tool} {text}".rstrip(), "dim"
        case "model_call":
            return f"  .. asking {text or 'the model'}", "dim"
        case "model_reply":
            return f"  .. {text}", "dim"
        case "stalled":
            return f"  !! {text}", "warn"
        case kind:
            return f"  .. {kind.replace('_', ' ')} {text}".rstrip(), "dim"
