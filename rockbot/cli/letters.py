"""``dlq``: looking into dead-letter queues. What changes them is in the modules beside this one."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rockbot.cli import letters_carrying, letters_sending, letters_working
from rockbot.cli.invocation import Invocation, command, group
from rockbot.cli.letters_selection import Given, Queue, filtered, letter_filter, named, parted

__all__ = ["register"]

Letter = Annotated[
    list[str],
    typer.Argument(
        metavar="[QUEUE] ID", help="Which letter; an id may be shortened to 6 characters.", show_default=False
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="Letters at most.")]
After = Annotated[str | None, typer.Option("--after", help="Go on behind the page that said so.", show_default=False)]
Newest = Annotated[bool, typer.Option("--newest", help="The latest first instead of the oldest.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    dlq = group(app, "dlq", help="Look into dead-letter queues and work them.")
    command(dlq, "list")(filtered(list_letters))
    command(dlq, "queues")(queues)
    command(dlq, "groups")(filtered(groups))
    command(dlq, "show")(show)
    letters_sending.register(dlq)
    letters_working.register(dlq)
    command(dlq, "discarded")(filtered(discarded))
    letters_carrying.register(dlq)
    command(dlq, "audit")(audit)


async def queues(call: Invocation) -> None:
    """Dead-letter queues: how many letters lie in each, since when, how many of the last hour."""
    from rockbot.cli.letters_views import queue_blocks

    async with call.operator(composed=True) as operator:
        found = await operator.dead_letters.queues()
    call.screen.show(found, queue_blocks(found))


async def list_letters(
    call: Invocation,
    given: Given,
    queue: Queue = None,
    limit: Limit = 50,
    after: After = None,
    newest: Newest = False,
    fail_if_any: Annotated[bool, typer.Option("--fail-if-any", help="Exit with 6 when there is a letter.")] = False,
) -> int:
    """Dead letters, oldest first, with the reason of each."""
    from rockbot.cli.letters_views import row_blocks
    from rockbot.operators.faults import ExitCode

    which = letter_filter(given, queue=queue)
    async with call.operator(composed=True) as operator:
        page = await operator.dead_letters.find(which, limit=limit, after=after, order="newest" if newest else "oldest")
    call.screen.show(page.letters, row_blocks(page.letters))
    call.screen.more(page.next, len(page.letters), page.total)
    if page.letters:
        first = page.letters[0]
        call.screen.say(f"read one: {first.replay_command.replace(' replay ', ' show ', 1)}", "dim")
    return ExitCode.PROBLEMS if page.total and fail_if_any else ExitCode.OK


async def groups(call: Invocation, given: Given, queue: Queue = None) -> None:
    """What letters died of: how many of each kind, and the commands to go on with."""
    from rockbot.cli.letters_views import group_blocks

    async with call.operator(composed=True) as operator:
        found = await operator.dead_letters.groups(letter_filter(given, queue=queue))
    call.screen.show(found, group_blocks(found))


async def show(
    call: Invocation,
    where: Letter,
    body: Annotated[bool, typer.Option("--body", help="Only the body, as it was published.")] = False,
) -> None:
    """One dead letter: why it died, what it says, how to send it on."""
    from rockbot.cli.letters_views import letter_blocks

    if len(where) > 2:
        raise typer.BadParameter("name the letter by [QUEUE] ID")
    async with call.operator(composed=True) as operator:
        desk = operator.dead_letters
        if len(where) == 2:
            letter = await desk.letter(*where)
        else:
            queue, ids = await parted(desk, where)
            if not ids:
                raise typer.BadParameter(f"{queue} is a queue: name the letter too, or use `rockbot dlq list {queue}`")
            [row] = await named(desk, None, ids)
            letter = await desk.letter(row.queue, row.id)
    if body:
        sys.stdout.flush()
        sys.stdout.buffer.write(letter.body_bytes)
        sys.stdout.buffer.flush()
    else:
        call.screen.show(letter, letter_blocks(letter))


async def discarded(
    call: Invocation, given: Given, limit: Limit = 50, after: After = None, newest: Newest = False
) -> None:
    """Letters that were put away and can be restored for a week."""
    from rockbot.cli.letters_views import discarded_blocks

    async with call.operator(composed=True) as operator:
        page = await operator.dead_letters.find(
            letter_filter(given, queue="discarded"),
            limit=limit,
            after=after,
            order="newest" if newest else "oldest",
        )
    call.screen.show(page.letters, discarded_blocks(page.letters))
    call.screen.more(page.next, len(page.letters), page.total)
    if page.letters:
        call.screen.say("put one back: rockbot dlq restore ID; read one: rockbot dlq show discarded ID", "dim")


async def audit(
    call: Invocation,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Entries at most.")] = 100,
) -> None:
    """What was done to letters, by whom and why, the latest first."""
    from rockbot.cli.letters_views import audit_blocks

    async with call.operator(composed=True) as operator:
        entries = await operator.dead_letters.audit(limit=limit)
    call.screen.show(entries, audit_blocks(entries))
