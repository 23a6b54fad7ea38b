"""Turns as blocks: which facts of a story people see, and in which words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rockbot.cli.render import Block, Facts, Grid, Prose, Tone
from rockbot.cli.views import instant

if TYPE_CHECKING:
    from rockbot.events.models import Usage
    from rockbot.turns.models import Fork, StepEntry, TurnStory

__all__ = ["fork_blocks", "story_blocks", "timeline_blocks"]

_BAD = frozenset({"failed", "expired", "stalled", "no summary"})


def story_blocks(story: TurnStory) -> list[Block]:
    """A task without its steps."""
    facts = Facts(
        [
            ("task", story.task_id),
            ("conversation", story.conversation_id),
            ("agent", story.agent),
            ("state", story.state),
            ("accepted", instant(story.accepted_ms)),
            ("since", instant(story.at_ms)),
            ("ends unfinished", "" if story.ended else instant(story.deadline_ms)),
            ("user", story.user),
            ("answered by", story.answered_by),
            ("calls", f"{story.model_calls} of models, {story.tool_calls} of tools"),
            ("tokens", _counted(story.input_tokens, story.output_tokens)),
            ("cost", _cost(story.cost)),
            ("error", f"{story.error.code}: {story.error.message}" if story.error else ""),
        ]
    )
    return [
        facts,
        Prose(story.input, title="Question"),
        *([Prose(story.output, title="Answer" if story.ended else "Said so far")] if story.output else []),
        *_waits(story),
    ]


def timeline_blocks(story: TurnStory) -> list[Block]:
    """Every step, and what the turn waits for."""
    rows = [
        (
            str(step.version),
            instant(step.at_ms),
            step.kind,
            _took(step.took_ms),
            _tokens(step.usage),
            _cost(step.cost),
            step.id,
            step.text,
        )
        for step in story.steps
    ]
    grid = Grid(
        ("STEP", "AT", "WHAT", "TOOK", "TOKENS", "COST", "MESSAGE", "TEXT"),
        rows,
        title=f"Task {story.task_id}: {story.state}",
        empty="nothing has happened",
        tones=[_tone(step) for step in story.steps],
        short=("MESSAGE",),
        optional=("AT", "COST"),
    )
    return [grid, *_waits(story)]


def fork_blocks(made: Fork) -> list[Block]:
    """A new conversation, and how to go on in it."""
    agent = made.agent or "AGENT"
    return [
        Prose(
            f"conversation {made.conversation_id}: {made.messages} messages of {made.source} up to record {made.version}"
        ),
        Prose(f'go on: rockbot ask {agent} "..." --conversation {made.conversation_id}', tone="dim"),
    ]


def _waits(story: TurnStory) -> list[Block]:
    if not story.waits_for:
        return []
    return [
        Prose(""),
        Grid(
            ("WAITS FOR", "SINCE", "MESSAGE", "WHAT TO DO"),
            [(hang.text, instant(hang.since_ms), hang.id, hang.command) for hang in story.waits_for],
            short=("MESSAGE",),
        ),
    ]


def _tone(step: StepEntry) -> Tone:
    if step.kind in _BAD:
        return "bad"
    return "good" if step.kind == "completed" else ""


def _took(milliseconds: int | None) -> str:
    return "" if milliseconds is None else f"{milliseconds / 1000:.2f} s"


def _tokens(usage: Usage | None) -> str:
    return "" if usage is None else _counted(usage.input_tokens, usage.output_tokens)


def _counted(read: int, written: int) -> str:
    return f"{read} in, {written} out" if read or written else ""


def _cost(cost: float | None) -> str:
    return "" if cost is None else f"{cost:.4f}"
