"""``dlq discard``, ``restore``, ``purge`` and ``scan``: what puts letters away and brings them back."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rockbot.cli.invocation import Invocation, command
from rockbot.cli.letters_selection import Given, Queue, Where, filtered, named, parted, selection

if TYPE_CHECKING:
    from rockbot.letters.desk import LetterDesk
    from rockbot.letters.models import LetterFilter, LetterRow

__all__ = ["All", "DryRun", "Yes", "actor", "agreed", "is_done", "register"]

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
All = Annotated[bool, typer.Option("--all", help="Every letter of QUEUE, or of every queue.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.", show_default=False)]


def register(dlq: typer.Typer) -> None:
    """Add these commands."""
    command(dlq, "discard")(filtered(discard))
    command(dlq, "restore")(filtered(restore))
    command(dlq, "purge")(purge)
    command(dlq, "scan")(scan)


def actor() -> str:
    """Who sits here, for the audit."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


async def discard(
    call: Invocation,
    given: Given,
    reason: Reason,
    where: Where = None,
    all_of_them: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> int:
    """Put dead letters away; for a week they can be restored."""
    from rockbot.cli.letters_progress import follow, report
    from rockbot.cli.render import Prose
    from rockbot.operators.faults import ExitCode

    _check_reason(reason)
    async with call.operator(composed=True) as operator:
        desk = operator.dead_letters
        which, rows = await selection(desk, where, given, all_of_them=all_of_them)
        if not dry_run and not yes:
            _check_terminal("discard")
            if not await agreed(call, desk, which, rows, "Put away", at_least=1):
                return ExitCode.FAILURE
        followed = await follow(call, desk.discard(which, reason=reason, actor=actor(), dry_run=dry_run))
    if followed.last is not None and is_done(followed.last.worked, rows) and not dry_run:
        call.screen.show(rows, [Prose(f"discarded {rows[0].id} of {rows[0].queue}")])
        return followed.exit_code
    return report(call, followed)


async def restore(
    call: Invocation, given: Given, where: Where = None, all_of_them: All = False, yes: Yes = False
) -> int:
    """Put discarded letters back where they lay. QUEUE is the queue that they lay in."""
    from rockbot.cli.letters_progress import follow, report
    from rockbot.operators.faults import ExitCode

    async with call.operator(composed=True) as operator:
        desk = operator.dead_letters
        where = where[1:] if where and where[0] == "discarded" else where
        queue, ids = (None, ()) if given.used or all_of_them else await parted(desk, where or ())
        if ids:
            rows = await named(desk, "discarded", ids)
            which, _ = await selection(desk, (), given, all_of_them=True)
            which = which.model_copy(update={"queue": queue, "ids": tuple(row.id for row in rows)})
        else:
            which, rows = await selection(desk, where, given, all_of_them=all_of_them)
        if not yes and len(rows) != 1 and sys.stdin.isatty():
            there = which.model_copy(update={"queue": "discarded"})
            if not await agreed(call, desk, there, rows, "Restore", at_least=2):
                return ExitCode.FAILURE
        followed = await follow(call, desk.restore(which, actor=actor()))
    return report(call, followed)


async def purge(
    call: Invocation,
    queue: Annotated[str, typer.Argument(help="The queue, or discarded.", show_default=False)],
    reason: Reason,
    yes: Yes = False,
    expect: Annotated[
        int | None,
        typer.Option("--expect", min=0, help="With --yes: how many letters there may be.", show_default=False),
    ] = None,
) -> int:
    """Erase every letter of a queue for good. Asks for their number, so that somebody has looked."""
    from rockbot.cli.letters_asking import answer
    from rockbot.cli.letters_progress import count, follow, report
    from rockbot.letters.models import LetterFilter
    from rockbot.operators.faults import ExitCode

    _check_reason(reason)
    if yes != (expect is not None):
        raise typer.BadParameter("--yes and --expect N go together: nothing is erased that nobody counted")
    async with call.operator(composed=True) as operator:
        desk = operator.dead_letters
        if expect is None:
            _check_terminal("purge", "--yes --expect N")
            there = (await desk.find(LetterFilter(queue=queue), limit=1)).total
            if there == 0:
                call.screen.say(f"no letters lie in {queue}")
                return ExitCode.OK
            call.screen.say(f"{count(there)} of {queue} would be gone for good", "warn")
            if await answer(call.screen, f"Type their number ({there}) to erase them: ") != str(there):
                call.screen.say("nothing was erased")
                return ExitCode.FAILURE
            expect = there
        followed = await follow(call, desk.purge(queue, expect=expect, actor=actor(), reason=reason))
    return report(call, followed)


async def scan(call: Invocation, queue: Queue = None) -> int:
    """Compare the index of letters with the broker, and mend it. Commands do that by themselves when counts differ."""
    from rockbot.cli.letters_progress import follow, report

    async with call.operator(composed=True) as operator:
        followed = await follow(call, operator.dead_letters.scan(queue))
    return report(call, followed)


async def agreed(
    call: Invocation, desk: LetterDesk, which: LetterFilter, rows: list[LetterRow], verb: str, *, at_least: int
) -> bool:
    """Whether the person agrees; asked when `at_least` so many letters are meant."""
    from rockbot.cli.letters_asking import agrees
    from rockbot.cli.letters_progress import count

    total = len(rows) or (await desk.find(which, limit=1)).total
    if total < at_least:
        return True
    if total == 1 and rows:
        call.screen.say(f"{rows[0].id} in {rows[0].queue}: {rows[0].reason}")
    if await agrees(call.screen, f"{verb} {count(total)}?"):
        return True
    call.screen.say("nothing was done")
    return False


def is_done(worked: int, rows: list[LetterRow]) -> bool:
    """Whether the one letter that was named by its id was worked."""
    return worked == len(rows) == 1


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise typer.BadParameter("say why: --reason '...'")


def _check_terminal(verb: str, instead: str = "--yes") -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"there is nobody to ask: add {instead} to {verb}")
