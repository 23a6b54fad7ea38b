"""``approvals``: what turns ask people, and what people decide."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from rockbot.cli.invocation import Invocation, command, group
from rockbot.cli.letters_working import actor

if TYPE_CHECKING:
    from rockbot.cli.render import Block
    from rockbot.events import ApprovalRequest

__all__ = ["register"]

Id = Annotated[str, typer.Argument(metavar="ID", help="The id that `list` shows.", show_default=False)]
By = Annotated[str | None, typer.Option("--by", help="Who decides; by default you.", show_default=False)]
Tenant = Annotated[str, typer.Option("--tenant", help="Of this tenant.")]


_DECIDED: Final = {"approve": "approved", "deny": "denied", "answer": "answered"}


def register(app: typer.Typer) -> None:
    """Add these commands."""
    approvals = group(app, "approvals", help="What turns ask people: approvals and questions.")
    for name, act in (
        ("list", list_approvals),
        ("show", show),
        ("approve", approve),
        ("deny", deny),
        ("answer", answer),
    ):
        command(approvals, name)(act)


async def list_approvals(
    call: Invocation,
    tenant: Tenant = "default",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Rows at most.")] = 100,
    after: Annotated[
        str | None, typer.Option("--after", help="Go on behind the page that said so.", show_default=False)
    ] = None,
) -> None:
    """What people are asked at present."""
    from rockbot.cli.render import Grid
    from rockbot.cli.views import instant

    async with call.operator(stored=True) as operator:
        page = await operator.approvals(tenant=tenant, limit=limit, after=after)
    rows = [
        (each.approval_id, each.kind, each.agent, each.tool, _asked(each), instant(each.expires_ms))
        for each in page.approvals
    ]
    head = ("ID", "KIND", "AGENT", "TOOL", "WHAT", "UNTIL")
    call.screen.show(page.approvals, [Grid(head, rows, empty="nobody is asked anything", optional=("AGENT",))])
    call.screen.more(page.next)


async def show(call: Invocation, id: Id, tenant: Tenant = "default") -> None:
    """One approval or question, with the arguments it is about."""
    async with call.operator(stored=True) as operator:
        found = await operator.approval(id, tenant=tenant)
    call.screen.show(found, _view(found))


async def approve(
    call: Invocation,
    id: Id,
    arguments: Annotated[
        str | None,
        typer.Option("--arguments", help="Call it with this JSON object instead.", show_default=False),
    ] = None,
    always: Annotated[
        bool, typer.Option("--always", help="This tool needs no approval in this conversation any more.")
    ] = False,
    by: By = None,
    tenant: Tenant = "default",
) -> None:
    """Have the call made, as it is or with other arguments."""
    edited = None if arguments is None else _object(arguments)
    await _decide(call, id, "approve", by, tenant, arguments=edited, always=always)


async def deny(
    call: Invocation,
    id: Id,
    reason: Annotated[str, typer.Option("--reason", help="Why; the model is told.", show_default=False)] = "",
    by: By = None,
    tenant: Tenant = "default",
) -> None:
    """Have the call not made, or the question not answered."""
    await _decide(call, id, "deny", by, tenant, text=reason)


async def answer(
    call: Invocation,
    id: Id,
    text: Annotated[str, typer.Argument(help="The answer.", show_default=False)],
    by: By = None,
    tenant: Tenant = "default",
) -> None:
    """Answer a question."""
    await _decide(call, id, "answer", by, tenant, text=text)


async def _decide(call: Invocation, id: str, decision: Any, by: str | None, tenant: str, **fields: Any) -> None:
    from rockbot.cli.render import Prose
    from rockbot.events import ApprovalDecision

    made = ApprovalDecision(approval_id=id, decision=decision, by=by or actor(), **fields)
    async with call.operator(composed=True) as operator:
        message = await operator.decide(made, tenant=tenant)
    call.screen.show(message, [Prose(f"{_DECIDED[made.decision]} {id}; its turn was told")])


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise typer.BadParameter(f"--arguments is not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("--arguments is no JSON object")
    return value


def _asked(request: ApprovalRequest) -> str:
    return request.text if request.kind == "question" else json.dumps(request.arguments, ensure_ascii=False)


def _view(request: ApprovalRequest) -> list[Block]:
    from rockbot.cli.render import Facts, Prose
    from rockbot.cli.views import instant

    arguments = json.dumps(request.arguments, ensure_ascii=False, indent=2)
    return [
        Facts(
            (
                ("id", request.approval_id),
                ("kind", request.kind),
                ("agent", request.agent),
                ("tool", request.tool),
                ("why" if request.kind == "approval" else "question", request.text),
                ("choices", ", ".join(request.choices)),
                ("task", request.task_id),
                ("conversation", request.conversation_id),
                ("user", request.user),
                ("asked", instant(request.asked_ms)),
                ("until", instant(request.expires_ms)),
                ("argument hash", request.argument_hash),
            )
        ),
        Prose(arguments, "arguments"),
    ]
