"""``dlq replay``: letters go on as they are, or one of them mended."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from rockbot.cli.invocation import Invocation, command
from rockbot.cli.letters_selection import Given, Where, filtered, named, parted, selection
from rockbot.cli.letters_working import All, DryRun, Yes, actor, agreed, is_done
from rockbot.cli.messages import read_body

if TYPE_CHECKING:
    from rockbot.cli.letters_editing import Change

__all__ = ["register"]

_EDIT: Final = "Mending one letter"


def register(dlq: typer.Typer) -> None:
    """Add this command."""
    command(dlq, "replay")(filtered(replay))


async def replay(
    call: Invocation,
    given: Given,
    where: Where = None,
    all_of_them: All = False,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Letters per second at most.", show_default=False)
    ] = None,
    dry_run: DryRun = False,
    new_id: Annotated[bool, typer.Option("--new-id", help="Under new ids, so that none is taken for a copy.")] = False,
    restart_turn: Annotated[
        bool, typer.Option("--restart-turn", help="Where the turn has ended, start its task anew.")
    ] = False,
    yes: Yes = False,
    edit: Annotated[
        bool, typer.Option("--edit", help="Open it in $VISUAL or $EDITOR first.", rich_help_panel=_EDIT)
    ] = False,
    headers: Annotated[
        bool, typer.Option("--headers", help="With --edit: its headers too.", rich_help_panel=_EDIT)
    ] = False,
    body: Annotated[
        str | None, typer.Option("--body", help="Another body, as text.", show_default=False, rich_help_panel=_EDIT)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="Another body, from a file; - is standard input.", show_default=False, rich_help_panel=_EDIT
        ),
    ] = None,
    set_header: Annotated[
        list[str] | None,
        typer.Option("--set-header", help="Set a header k=v; repeatable.", show_default=False, rich_help_panel=_EDIT),
    ] = None,
    unset_header: Annotated[
        list[str] | None,
        typer.Option("--unset-header", help="Drop a header; repeatable.", show_default=False, rich_help_panel=_EDIT),
    ] = None,
    reply_to: Annotated[
        str | None,
        typer.Option("--reply-to", help="Another reply address.", show_default=False, rich_help_panel=_EDIT),
    ] = None,
    content_type: Annotated[
        str | None,
        typer.Option("--content-type", help="Another content type.", show_default=False, rich_help_panel=_EDIT),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            "--deadline",
            help="Another deadline: an instant, or 2h from now.",
            show_default=False,
            rich_help_panel=_EDIT,
        ),
    ] = None,
    careful: Annotated[
        bool, typer.Option("--careful", help="Change what is sensitive, too.", rich_help_panel=_EDIT)
    ] = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Send it even if it is not valid for its type.", rich_help_panel=_EDIT)
    ] = False,
) -> int:
    """Send dead letters on, as they are or (one letter) mended: same id, first attempt, to the queue they came from.

    With an id, --type is the message's new type.
    """
    from rockbot.cli.letters_editing import Change

    if edit and (body is not None or file is not None):
        raise typer.BadParameter("the new body can come from one place only: use --edit, --body or --file")
    if headers and not edit:
        raise typer.BadParameter("--headers goes with --edit; one header is set with --set-header k=v")
    if headers and (set_header or unset_header):
        raise typer.BadParameter("headers can be changed in one place only: --headers in the editor, or --set-header")
    change = Change(
        editor=edit,
        headers=headers,
        body=read_body(body, file),
        set_headers=tuple(set_header or ()),
        unset_headers=tuple(unset_header or ()),
        type=given.type,
        reply_to=reply_to,
        content_type=content_type,
        deadline=deadline,
        careful=careful,
        unchecked=unchecked,
    )
    if change.wanted and where and not given.but_type.used and not all_of_them:
        if dry_run or new_id or restart_turn or rate is not None:
            raise typer.BadParameter("a letter that is mended is sent on as it is then: leave the other options out")
        return await _mend(call, where, change)
    if change.needs_letter:
        raise typer.BadParameter("one letter can be mended at a time: name it by [QUEUE] ID")
    return await _send_on(
        call, where, given, all_of_them, rate=rate, dry_run=dry_run, new_id=new_id, restart_turn=restart_turn, yes=yes
    )


async def _send_on(
    call: Invocation,
    where: list[str] | None,
    given: Given,
    all_of_them: bool,
    *,
    rate: float | None,
    dry_run: bool,
    new_id: bool,
    restart_turn: bool,
    yes: bool,
) -> int:
    from rockbot.cli.letters_progress import follow, report
    from rockbot.cli.views import published_blocks
    from rockbot.letters.models import ReplayOptions
    from rockbot.operators.faults import ExitCode
    from rockbot.operators.models import PublishedMessage

    options = ReplayOptions(rate=rate, dry_run=dry_run, new_id=new_id, restart_turn=restart_turn)
    async with call.operator(composed=True) as operator:
        desk = operator.dead_letters
        which, rows = await selection(desk, where, given, all_of_them=all_of_them)
        if (
            not dry_run
            and not yes
            and sys.stdin.isatty()
            and not await agreed(call, desk, which, rows, "Send on", at_least=2)
        ):
            return ExitCode.FAILURE
        followed = await follow(call, desk.replay(which, options, actor=actor()))
    plain = not (dry_run or new_id or restart_turn)
    if followed.last is not None and is_done(followed.last.worked, rows) and plain:
        row = rows[0]
        message = PublishedMessage(message_id=row.id, topic=row.topic, conversation_id=row.conversation_id)
        call.screen.show(message, published_blocks(message, "sent on"))
        return followed.exit_code
    return report(call, followed)


async def _mend(call: Invocation, where: list[str], change: Change) -> int:
    from rockbot.cli.letters_editing import mend
    from rockbot.cli.views import published_blocks

    async with call.operator(composed=True) as operator:
        desk = operator.dead_letters
        queue, ids = (where[0], (where[1],)) if len(where) == 2 else await parted(desk, where)
        if len(ids) != 1:
            raise typer.BadParameter("one letter can be mended at a time: name it by [QUEUE] ID")
        if queue is None:
            [row] = await named(desk, None, ids)
            letter = await desk.letter(row.queue, row.id)
        else:
            letter = await desk.letter(queue, ids[0])
        message = await mend(call.screen, desk, letter, change, actor=actor())
    call.screen.show(message, published_blocks(message, "sent on"))
    return 0
