"""``dlq export`` and ``dlq import``: letters as lines of JSON, to keep or to carry elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, final

import typer

from rockbot.cli.files import Output, new_file
from rockbot.cli.invocation import Invocation, command
from rockbot.cli.letters_selection import Given, Queue, filtered, letter_filter
from rockbot.cli.letters_working import actor

if TYPE_CHECKING:
    from rockbot.letters.models import ExportedLetter

__all__ = ["register"]


def register(dlq: typer.Typer) -> None:
    """Add these commands."""
    command(dlq, "export")(filtered(export))
    command(dlq, "import")(load)


async def export(
    call: Invocation,
    given: Given,
    queue: Queue = None,
    output: Output = None,
) -> int:
    """Write dead letters as JSON Lines, whole; nothing is changed. With no filter: all of them."""
    from rockbot.cli.letters_progress import count, interruptible
    from rockbot.operators.faults import ExitCode

    output = new_file(output)
    which = letter_filter(given, queue=queue)
    written = 0
    async with call.operator(composed=True) as operator:
        with interruptible(call.screen) as stop, _sink(output) as sink:
            stream: Any = operator.dead_letters.export(which)
            async with aclosing(stream):
                async for letter in stream:
                    sink.stream.write(letter.model_dump_json(exclude_none=True) + "\n")
                    written += 1
                    if stop.is_set():
                        break
            if stop.is_set():
                kept = "nothing was written" if output is not None else f"{count(written)} written, and there are more"
                call.screen.say(kept, "warn")
                return ExitCode.INTERRUPTED
            sink.whole = True
    if output is not None:
        call.screen.say(f"{count(written)} written to {output}", "good")
    return ExitCode.OK


async def load(
    call: Invocation,
    file: Annotated[Path, typer.Argument(help="JSON Lines of `dlq export`; - is standard input.", show_default=False)],
    queue: Annotated[
        str | None, typer.Option("--queue", help="Put all of them into this queue.", show_default=False)
    ] = None,
) -> int:
    """Put exported letters back into the dead-letter queues that they came from."""
    from rockbot.cli.letters_progress import follow, report

    if str(file) == "-":
        letters = _read(sys.stdin.buffer, "standard input")
        async with call.operator(composed=True) as operator:
            followed = await follow(call, operator.dead_letters.load(letters, actor=actor(), queue=queue))
        return report(call, followed)
    try:
        with file.open("rb") as lines:
            async for _ in _read(
                lines, str(file)
            ):  # the whole file first, so that a bad line stops before anything is put
                pass
            lines.seek(0)
            async with call.operator(composed=True) as operator:
                letters = _read(lines, str(file))
                followed = await follow(call, operator.dead_letters.load(letters, actor=actor(), queue=queue))
    except OSError as exc:
        if exc.filename is None or exc.errno is None:
            raise
        raise typer.BadParameter(f"cannot read {file}: {exc.strerror}") from None
    return report(call, followed)


async def _read(lines: IO[bytes], name: str) -> AsyncIterator[ExportedLetter]:
    from pydantic import ValidationError

    from rockbot.letters.models import ExportedLetter
    from rockbot.operators.faults import InvalidRequest

    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            letter = ExportedLetter.model_validate_json(line)
        except ValidationError as exc:
            error = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, error["loc"]))
            raise InvalidRequest(
                f"line {number} of {name} is no exported letter: {f'{where}: ' if where else ''}{error['msg']}"
            ) from None
        yield letter


@final
@dataclass(slots=True)
class _Sink:
    """Where letters go; `whole` once all of them are there."""

    stream: IO[str]
    whole: bool = False


@contextmanager
def _sink(output: Path | None) -> Iterator[_Sink]:
    """Standard output, or a file that only its owner reads and that has its name only when it is whole."""
    if output is None:
        yield _Sink(sys.stdout)
        sys.stdout.flush()
        return
    part = output.with_name(f"{output.name}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as exc:
        raise typer.BadParameter(f"cannot write {output}: {exc.strerror}") from None
    sink = _Sink(os.fdopen(descriptor, "w", encoding="utf-8"))
    try:
        with sink.stream:
            yield sink
        if sink.whole:
            part.replace(output)
    finally:
        part.unlink(missing_ok=True)
