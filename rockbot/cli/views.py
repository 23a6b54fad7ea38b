"""Results as blocks: which facts of a model people see, and in which words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rockbot.cli.render import Block, Grid, Prose, Tone

if TYPE_CHECKING:
    from rockbot.events.tasks import AgentStatus
    from rockbot.operators.models import Diagnosis, Pipeline, PublishedMessage

__all__ = [
    "diagnosis_blocks",
    "instant",
    "pipeline_blocks",
    "published_blocks",
    "step_line",
]

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
            ("SUBSCRIPTION", "ORDER", "LANE", "RATE", "OUTAGE GUARD", "REMEMBERS"),
            [
                (item.name, item.order, item.lane, item.rate, item.guard, _seconds(item.remember))
                for item in pipeline.subscriptions
                if item.kind == "work"
            ],
            title="In which order, how fast, how long remembered",
            empty="no work subscriptions",
        ),
        *_retries(pipeline),
        Prose(""),
        Grid(
            ("BEFORE ANY LINK, IN THIS ORDER",),
            [(layer,) for layer in pipeline.layers],
            title="What the bus does with every message",
            empty="nothing: messages come as they are",
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


def _retries(pipeline: Pipeline) -> list[Block]:
    """Each retry table once, under the names of those that share it."""
    tables: dict[tuple[str, ...], list[str]] = {}
    for item in pipeline.subscriptions:
        if item.retry_table:
            tables.setdefault(item.retry_table, []).append(item.name)
    blocks: list[Block] = []
    for table, names in tables.items():
        blocks += [Prose(""), Prose("\n".join(table), f"Retries of {', '.join(names)}")]
    return blocks


def _seconds(seconds: float | None) -> str:
    from rockbot_messaging.retries import span

    return "" if seconds is None else span(seconds)


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
        case "tool_progress":
            share = "" if status.fraction is None else f"{status.fraction:.0%} "
            return f"  .. {status.tool} {share}{text}".rstrip(), "dim"
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
