"""``tasks``: what became of tasks, also of those that ended long ago."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from rockbot.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rockbot.cli.render import Block
    from rockbot.history import TaskRow, TaskView

__all__ = ["register"]

Tenant = Annotated[str, typer.Option("--tenant", help="Of this tenant.")]
#: Characters of an input or output that are shown.
_SHOWN = 4000


class Status(StrEnum):
    """What a task may be listed by."""

    OPEN = "open"
    ENDED = "ended"
    ACCEPTED = "accepted"
    STALLED = "stalled"
    AWAITING_APPROVAL = "awaiting_approval"
    AWAITING_INPUT = "awaiting_input"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    tasks = group(app, "tasks", help="What became of tasks.")
    command(tasks, "list")(list_tasks)
    command(tasks, "show")(show)


async def list_tasks(
    call: Invocation,
    agent: Annotated[str | None, typer.Option("--agent", help="Of this agent.", show_default=False)] = None,
    status: Annotated[
        Status | None,
        typer.Option("--status", help="With this status; open and ended stand for several.", show_default=False),
    ] = None,
    conversation: Annotated[
        str | None, typer.Option("--conversation", help="Of this conversation.", show_default=False)
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="Asked for by this user.", show_default=False)] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            help="Accepted at or after this instant: 2026-01-31T08:00 (UTC), or 2h, 3d ago.",
            show_default=False,
        ),
    ] = None,
    before: Annotated[
        str | None, typer.Option("--before", help="Accepted before this instant.", show_default=False)
    ] = None,
    tenant: Tenant = "default",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Tasks at most.")] = 50,
    after: Annotated[
        str | None, typer.Option("--after", help="Go on behind the page that said so.", show_default=False)
    ] = None,
) -> None:
    """Tasks, the latest first: which agent, how it ended, how long it took, what it used."""
    from rockbot.cli.letters_selection import instant_ms
    from rockbot.history import TaskFilter
    from rockbot_messaging.clock import SystemClock

    now_ms = SystemClock().now_ms()
    which = TaskFilter(
        tenant=tenant,
        agent=agent,
        status=status,
        conversation=conversation,
        user=user,
        since_ms=None if since is None else instant_ms(since, now_ms),
        before_ms=None if before is None else instant_ms(before, now_ms),
    )
    async with call.operator(stored=True) as operator:
        page = await operator.tasks(which, limit=limit, after=after)
        while not page.tasks and page.next is not None:
            page = await operator.tasks(which, limit=limit, after=page.next)
    call.screen.show(page.tasks, _rows(page.tasks))
    call.screen.more(page.next)


async def show(
    call: Invocation,
    task: Annotated[str, typer.Argument(help="The task's id.")],
    tenant: Tenant = "default",
) -> None:
    """One task: what was asked, how it stands or ended, what it used."""
    async with call.operator(stored=True) as operator:
        found = await operator.task(task, tenant=tenant)
    call.screen.show(found, _view(found))


def _rows(tasks: Sequence[TaskRow]) -> list[Block]:
    from rockbot.cli.render import Grid
    from rockbot.cli.views import instant

    rows = [
        (
            task.task_id,
            instant(task.accepted_ms),
            task.agent,
            task.status,
            _took(task),
            str(task.model_calls or ""),
            _tokens(task),
            _cost(task),
            task.conversation_id,
        )
        for task in tasks
    ]
    return [
        Grid(
            ("TASK", "ACCEPTED", "AGENT", "STATUS", "TOOK", "STEPS", "TOKENS", "COST", "CONVERSATION"),
            rows,
            empty="no such tasks",
            optional=("STEPS", "TOKENS", "CONVERSATION"),
        )
    ]


def _view(task: TaskView) -> list[Block]:
    from rockbot.cli.render import Facts, Prose
    from rockbot.cli.views import instant

    error = task.error
    return [
        Facts(
            (
                ("task", task.task_id),
                ("status", task.status),
                ("agent", task.agent),
                ("conversation", task.conversation_id),
                ("user", task.user),
                ("on behalf of", task.root),
                ("answered by", task.answered_by),
                ("accepted", instant(task.accepted_ms)),
                ("ended" if task.ended else "since", instant(task.at_ms)),
                ("took", _took(task)),
                ("model calls", str(task.model_calls or "")),
                ("tool calls", str(task.tool_calls or "")),
                ("tokens", _tokens(task)),
                ("cost", _cost(task)),
                ("error", f"{error.code}: {error.message}" if error else ""),
            )
        ),
        *([Prose(_short(task.input), "asked")] if task.input else []),
        *([Prose(_short(task.output), "answered")] if task.output else []),
    ]


def _took(task: TaskRow) -> str:
    if not task.ended or not task.accepted_ms:
        return ""
    return f"{max(0, task.at_ms - task.accepted_ms) / 1000:.1f} s"


def _tokens(task: TaskRow) -> str:
    return f"{task.input_tokens} in, {task.output_tokens} out" if task.input_tokens or task.output_tokens else ""


def _cost(task: TaskRow) -> str:
    return "" if task.cost is None else f"{task.cost:.4f}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} [truncated, {len(text) - _SHOWN} chars omitted]"
