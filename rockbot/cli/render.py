"""How the command line speaks: data on standard output, everything else on standard error.

On a terminal tables and colours, plain aligned text when piped, one JSON object per line with ``--json``. What messages
contain is shown with its control characters escaped, because a dead letter must not drive the reader's terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO, final

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

__all__ = ["Block", "Facts", "Grid", "Prose", "Screen", "printable"]

Tone = Literal["", "good", "bad", "warn", "dim", "strong"]

_STYLES: Final[dict[str, str]] = {
    "": "",
    "good": "green",
    "bad": "bold red",
    "warn": "yellow",
    "dim": "dim",
    "strong": "bold",
}
#: C0 controls but tab and newline, DEL, C1 controls, and the marks that turn the writing direction around.
_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

#: Columns of a terminal that has room for everything; characters of a shortened cell (an id's prefix that commands take).
_WIDE: Final = 120
_SHORT: Final = 8


def printable(text: str) -> str:
    """`text` with control characters written out."""
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


@final
@dataclass(frozen=True, slots=True)
class Grid:
    """A table; `empty` is said instead when it has no rows.

    On a terminal, cells of `short` columns are cut to 8 characters and never wrapped, and `optional` columns are left out
    when it is narrower than 120 characters.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    empty: str = ""
    tones: Sequence[Tone] = ()
    short: Sequence[str] = ()
    optional: Sequence[str] = ()


@final
@dataclass(frozen=True, slots=True)
class Facts:
    """Labels and values; pairs without a value are left out."""

    pairs: Sequence[tuple[str, str]]
    title: str = ""


@final
@dataclass(frozen=True, slots=True)
class Prose:
    """Text of several lines under a title; nothing when it is empty."""

    text: str
    title: str = ""
    tone: Tone = ""


Block = Grid | Facts | Prose


@final
class Screen:
    """Where a command's output goes. Streams are looked up when written to, so that a redirection counts."""

    def __init__(self, *, json: bool = False, color: bool = True) -> None:
        self.json = json
        self._color = color

    # -- data ---------------------------------------------------------------------------------------------------------

    def show(self, models: BaseModel | Sequence[BaseModel], blocks: Iterable[Block]) -> None:
        """Print a result: as JSON lines from `models`, or for people from `blocks`."""
        if self.json:
            for model in models if isinstance(models, (list, tuple)) else (models,):
                self._write(sys.stdout, model.model_dump_json(exclude_none=True))
            return
        console = self._console(sys.stdout)
        for block in blocks:
            if console is None:
                self._write(sys.stdout, _plain(block))
            else:
                _pretty(console, block)

    def text(self, text: str) -> None:
        """Print text as it is; on a terminal with its control characters escaped."""
        self._write(sys.stdout, printable(text) if sys.stdout.isatty() else text)

    def piece(self, text: str) -> None:
        """Print text that goes on; on a terminal with its control characters escaped."""
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    # -- talk ---------------------------------------------------------------------------------------------------------

    def say(self, text: str, tone: Tone = "") -> None:
        """Tell the person something; silent with ``--json``."""
        if not self.json:
            self._line(sys.stderr, printable(text), tone)

    def more(self, after: str | None, shown: int = 0, total: int | None = None) -> None:
        """That a listing goes on behind a page, if it does; with ``--json`` an object on standard error, so that programs can."""
        if after is None:
            return
        of = "" if total is None else f"{shown} of {total} letters; "
        if self.json:
            counted = {} if total is None else {"total": total}
            self._write(sys.stderr, json.dumps({"next": after, **counted}))
        else:
            self.say(f"{of}go on with --after {after}", "dim")

    def ask(self, question: str) -> None:
        """A question, with the cursor behind it; also with ``--json``, because somebody has to answer."""
        sys.stderr.write(printable(question))
        sys.stderr.flush()

    def signal(self, model: BaseModel, text: str, tone: Tone = "") -> None:
        """Something that happens meanwhile: a JSON line or a line of text, on standard error."""
        if self.json:
            self._write(sys.stderr, model.model_dump_json(exclude_none=True))
        else:
            self._line(sys.stderr, printable(text), tone)

    def error(self, code: str, message: str, hint: str = "") -> None:
        """What went wrong, in one line, and what to do about it."""
        if self.json:
            error = {"code": code, "message": message, **({"hint": hint} if hint else {})}
            self._write(sys.stderr, json.dumps({"error": error}, ensure_ascii=False))
            return
        self._line(sys.stderr, f"error: {printable(message)}", "bad")
        if hint:
            self._line(sys.stderr, f"hint: {printable(hint)}", "dim")

    # -- streams ------------------------------------------------------------------------------------------------------

    def _console(self, stream: TextIO) -> Console | None:
        if self.json or not stream.isatty():
            return None
        from rich.console import Console

        return Console(file=stream, no_color=True if not self._color else None, highlight=False, emoji=False)

    def _line(self, stream: TextIO, text: str, tone: Tone) -> None:
        console = self._console(stream) if tone else None
        if console is None:
            self._write(stream, text)
        else:
            console.print(text, style=_STYLES[tone], markup=False, soft_wrap=True)

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text + "\n")
        stream.flush()


def _plain(block: Block) -> str:
    match block:
        case Grid():
            return _plain_grid(block)
        case Facts():
            pairs = [(label, printable(value)) for label, value in block.pairs if value]
            width = max((len(label) for label, _ in pairs), default=0)
            lines = [
                f"{label:<{width}}  {value.replace(chr(10), chr(10) + ' ' * (width + 2))}" for label, value in pairs
            ]
            return "\n".join([*([printable(block.title)] if block.title else []), *lines])
        case Prose():
            text = printable(block.text).rstrip("\n")
            return f"{printable(block.title)}\n{text}" if block.title else text


def _plain_grid(block: Grid) -> str:
    if not block.rows:
        return block.empty
    rows = [[printable(cell).replace("\n", " ") for cell in row] for row in (block.columns, *block.rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*([printable(block.title)] if block.title else []), *lines])


def _pretty(console: Console, block: Block) -> None:
    from rich.padding import Padding
    from rich.text import Text

    if block.title and not (isinstance(block, Grid) and not block.rows):
        console.print(Text(printable(block.title), style="bold"))
    renderable: Any
    match block:
        case Grid() if not block.rows:
            renderable = Text(block.empty, style="dim")
        case Grid():
            renderable = _pretty_grid(block, console.width)
        case Facts():
            renderable = _pretty_facts(block)
        case Prose():
            renderable = Padding(Text(printable(block.text).rstrip("\n"), style=_STYLES[block.tone]), (0, 0, 0, 2))
    console.print(renderable)


def _pretty_grid(block: Grid, width: int) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    shown = [
        (at, column in block.short)
        for at, column in enumerate(block.columns)
        if width >= _WIDE or column not in block.optional
    ]
    for at, short in shown:
        table.add_column(block.columns[at], overflow="fold", no_wrap=short)
    for number, row in enumerate(block.rows):
        style = _STYLES[block.tones[number]] if number < len(block.tones) else ""
        cells = [printable(row[at])[: _SHORT if short else None] for at, short in shown]
        table.add_row(*(Text(cell) for cell in cells), style=style or None)
    return table


def _pretty_facts(block: Facts) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in block.pairs:
        if value:
            table.add_row(label, Text(printable(value)))
    return table
