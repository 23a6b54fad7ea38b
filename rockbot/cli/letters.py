"""``dlq``: looking into dead-letter queues, and working them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rockbot.cli.invocation import Invocation, command, group
from rockbot.cli.messages import BodyFile, BodyText, read_body

if TYPE_CHECKING:
    from rockbot.operator import Operator
    from rockbot.operators.models import LetterDetail

__all__ = ["register"]

Where = Annotated[
    list[str],
    typer.Argument(
        metavar="[QUEUE] ID", help="Which letter; an id may be shortened to 6 characters.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    dlq = group(app, "dlq", help="Look into dead-letter queues and work them.")
    command(dlq, "list")(list_letters)
    command(dlq, "queues")(queues)
    command(dlq, "show")(show)
    command(dlq, "replay")(replay)
    command(dlq, "discard")(discard)


async def queues(call: Invocation) -> None:
    """Dead-letter queues and how many letters lie in each."""
    from rockbot.cli.views import queues_blocks

    async with call.operator(composed=True) as operator:
        found = await operator.queues()
    call.screen.show(found, queues_blocks(found))


async def list_letters(
    call: Invocation,
    queue: Annotated[str | None, typer.Argument(help="One queue only.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Letters of each queue at most.")] = 50,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Leave out so many of the oldest.")] = 0,
    fail_if_any: Annotated[bool, typer.Option("--fail-if-any", help="Exit with 6 when there is a letter.")] = False,
) -> int:
    """Dead letters, oldest first, with the reason of each."""
    from rockbot.cli.views import letters_blocks
    from rockbot.operators.faults import ExitCode

    async with call.operator(composed=True) as operator:
        depths = {item.subscription: item.depth for item in await operator.queues() if item.depth}
        names = list(depths) if queue is None else [queue]
        letters = [letter for name in names for letter in await operator.letters(name, limit=limit, offset=offset)]
    call.screen.show(letters, letters_blocks(letters))
    if queue is None and len(letters) < sum(depths.values()):
        call.screen.say(f"{len(letters)} of {sum(depths.values())} letters; see --limit and --offset", "dim")
    if letters:
        first = letters[0]
        call.screen.say(f"read one: rockbot dlq show {first.queue} {first.id}", "dim")
    return ExitCode.PROBLEMS if letters and fail_if_any else ExitCode.OK


async def show(call: Invocation, where: Where) -> None:
    """One dead letter: why it died, what it says, how to send it on."""
    from rockbot.cli.views import letter_blocks

    async with call.operator(composed=True) as operator:
        letter = await _find(operator, where)
    call.screen.show(letter, letter_blocks(letter))


async def replay(
    call: Invocation,
    where: Where,
    edit: Annotated[bool, typer.Option("--edit", help="Mend the body in $VISUAL or $EDITOR first.")] = False,
    body: BodyText = None,
    file: BodyFile = None,
) -> None:
    """Send a dead letter on, as it is or mended: same id, first attempt, to the queue it came from."""
    from rockbot.cli.views import published_blocks

    if edit and (body is not None or file is not None):
        raise typer.BadParameter("the new body can come from one place only: use --edit, --body or --file")
    content = read_body(body, file)
    async with call.operator(composed=True) as operator:
        letter = await _find(operator, where)
        if edit:
            content = _edited(letter)
        message = await operator.replay(letter.queue, letter.id, body=content)
    call.screen.show(message, published_blocks(message, "sent on"))


async def discard(
    call: Invocation,
    where: Where,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the log.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Remove a dead letter for good."""
    from rockbot.cli.render import Prose
    from rockbot.operators.faults import ExitCode

    if not reason.strip():
        raise typer.BadParameter("say why: --reason '...'")
    async with call.operator(composed=True) as operator:
        letter = await _find(operator, where)
        if not yes:
            if not sys.stdin.isatty():
                raise typer.BadParameter("there is nobody to ask: add --yes to discard it")
            call.screen.say(f"{letter.id} in {letter.queue}: {letter.reason}")
            if not typer.confirm("Discard it for good?", err=True):
                call.screen.say("nothing was discarded")
                return ExitCode.FAILURE
        gone = await operator.discard(letter.queue, letter.id, reason=reason)
    call.screen.show(gone, [Prose(f"discarded {gone.id} of {gone.queue}")])
    return ExitCode.OK


async def _find(operator: Operator, where: list[str]) -> LetterDetail:
    """The letter that ``QUEUE ID`` or ``ID`` means."""
    from rockbot_messaging.errors import LetterNotFound

    if len(where) == 2:
        return await operator.letter(*where)
    if len(where) != 1:
        raise typer.BadParameter("name the letter by [QUEUE] ID")
    letter_id = where[0]
    found, ambiguous = [], ""
    for queue in await operator.queues():
        if not queue.depth:
            continue
        try:
            found.append(await operator.letter(queue.subscription, letter_id))
        except LetterNotFound as exc:
            ambiguous = ambiguous or (str(exc) if "may mean" in str(exc) or "too short" in str(exc) else "")
    if len(found) == 1 and not ambiguous:
        return found[0]
    if found:
        places = ", ".join(letter.queue for letter in found)
        raise LetterNotFound(f"letter {letter_id!r} lies in more than one queue ({places}): name the queue too")
    raise LetterNotFound(ambiguous or f"no letter {letter_id!r} lies in any dead-letter queue")


def _edited(letter: LetterDetail) -> bytes:
    """The body as the person leaves it in an editor."""
    from rockbot.operators.faults import InvalidRequest, OperatorError

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise InvalidRequest("--edit needs an editor: set VISUAL or EDITOR, or give --body or --file")
    before = letter.body_bytes
    with tempfile.TemporaryDirectory(prefix="rockbot-") as folder:
        path = Path(folder, "body.json" if letter.body_encoding == "utf-8" else "body.bin")
        path.write_bytes(before)
        try:
            done = subprocess.run([*shlex.split(editor), str(path)], check=False)  # noqa: S603 - the user's own editor
        except OSError as exc:
            raise OperatorError(f"the editor {editor!r} cannot be started: {exc.strerror}") from None
        if done.returncode != 0:
            raise OperatorError(f"the editor ended with status {done.returncode}; nothing was sent")
        after = path.read_bytes()
    if before and not before.endswith(b"\n"):
        after = after.removesuffix(b"\n")  # most editors end a file with a newline that nobody typed
    if after == before:
        raise OperatorError("the body was not changed; nothing was sent (without --edit it is sent as it is)")
    return after
