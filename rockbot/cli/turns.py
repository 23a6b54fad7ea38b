"""``turn``: what became of a task, step by step; where it hangs; how to go on."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rockbot.cli.invocation import Invocation, command, group
from rockbot.cli.letters_working import actor
from rockbot.cli.tasks import list_tasks

__all__ = ["register"]

Task = Annotated[str, typer.Argument(metavar="TASK", help="A task's id: the message id it was published with.")]
Tenant = Annotated[str, typer.Option("--tenant", help="Whose task it is.")]


class Format(StrEnum):
    """How the graph is drawn."""

    TEXT = "text"
    MERMAID = "mermaid"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    turn = group(app, "turn", help="Look at turns: what they did, what they wait for; resume and fork them.")
    command(turn, "list")(list_tasks)
    command(turn, "show")(show)
    command(turn, "timeline")(timeline)
    command(turn, "resume")(resume)
    command(turn, "fork")(fork)
    command(turn, "cancel")(cancel)
    command(turn, "describe")(describe)


async def show(call: Invocation, task: Task, tenant: Tenant = "default") -> None:
    """A task: what was asked, what was answered, what it took, and what it waits for."""
    from rockbot.cli.turns_views import story_blocks

    async with call.operator(stored=True) as operator:
        story = await operator.turns.story(task, tenant=tenant)
    call.screen.show(story.model_copy(update={"steps": ()}), story_blocks(story))


async def timeline(call: Invocation, task: Task, tenant: Tenant = "default") -> None:
    """Every step of a task: when, which message, how long it took, tokens and cost, and where it hangs.

    The first column numbers the records of the conversation: `rockbot turn fork --at` takes them.
    """
    from rockbot.cli.turns_views import timeline_blocks

    async with call.operator(stored=True) as operator:
        story = await operator.turns.story(task, tenant=tenant)
    call.screen.show([*story.steps, *story.waits_for], timeline_blocks(story))


async def resume(
    call: Invocation,
    task: Task,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent on.")] = False,
    tenant: Tenant = "default",
) -> int:
    """Send on the dead letters that a turn waits for. Mend one first with `rockbot dlq replay --edit`."""
    from rockbot.cli.letters_progress import count
    from rockbot.cli.render import Prose
    from rockbot.operators.faults import ExitCode

    async with call.operator(composed=True) as operator:
        progress = await operator.turns.resume(task, actor=actor(), dry_run=dry_run, tenant=tenant)
    verb = "would send on" if dry_run else "sent on"
    call.screen.show(progress, [Prose(f"{verb} {count(progress.worked)}")])
    return ExitCode.PROBLEMS if progress.refusals or not progress.worked else ExitCode.OK


async def fork(
    call: Invocation,
    conversation: Annotated[str, typer.Argument(metavar="CONVERSATION", help="The conversation to copy.")],
    at: Annotated[
        int | None,
        typer.Option(
            "--at", min=1, help="After which record (see `turn timeline`); else the last.", show_default=False
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The copy's id; else one is made.", show_default=False)
    ] = None,
    tenant: Tenant = "default",
) -> None:
    """Copy a conversation as it was after any step, to go on from there; the original stays as it is."""
    from rockbot.cli.turns_views import fork_blocks

    async with call.operator(stored=True) as operator:
        made = await operator.turns.fork(conversation, at=at, name=name, tenant=tenant)
    call.screen.show(made, fork_blocks(made))


def describe(
    call: Invocation,
    format: Annotated[Format, typer.Option("--format", help="As text, or as a Mermaid state diagram.")] = Format.TEXT,
) -> None:
    """Every state that a turn can be in, and what leads from one to another."""
    from rockbot.machines.turn_graph import mermaid, text

    call.screen.text(mermaid() if format is Format.MERMAID else text())


async def cancel(
    call: Invocation,
    task: Annotated[str, typer.Argument(help="The task's id; what it delegated ends with it.", show_default=False)],
    reason: Annotated[str, typer.Option("--reason", help="Why; the task's answer says it.", show_default=False)] = "",
    by: Annotated[str | None, typer.Option("--by", help="Who; by default you.", show_default=False)] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="Of this tenant.")] = "default",
) -> None:
    """End a task, wherever it is: running work stops within two seconds, queued work is not begun."""
    from rockbot.cli.render import Prose
    from rockbot.operators.faults import TaskNotFound

    async with call.operator(composed=True) as operator:
        try:
            found = await operator.task(task, tenant=tenant)
        except TaskNotFound:
            found = None
        message = await operator.cancel(task, tenant=tenant, reason=reason, by=by or actor())
    call.screen.show(message, [Prose(f"asked every process to end task {task}")])
    if found is None:
        call.screen.say("no such task was begun: check the id, unless it is still in a queue", "warn")
    elif found.ended:
        call.screen.say(f"it had ended before: {found.status}", "warn")
