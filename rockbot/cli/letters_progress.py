"""Long actions as a person follows them: a bar on a terminal, a line now and then elsewhere, and a Ctrl-C that is kind.

The first Ctrl-C lets the batch in hand be finished and says how far it came; the second one stops at once.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from rockbot.cli.render import Block, Prose

if TYPE_CHECKING:
    from rockbot.cli.invocation import Invocation
    from rockbot.cli.render import Screen
    from rockbot.letters.models import Progress

__all__ = ["Followed", "count", "follow", "interruptible", "report"]

#: Seconds between two lines, and between two drawings of a bar.
_LINE_EVERY: Final = 5.0
_DRAW_EVERY: Final = 0.1
#: Letters that stayed that are named on the screen.
_NAMED: Final = 20

#: What was done, and what would be done.
_VERBS: Final = {
    "replay": ("sent on", "would send on"),
    "discard": ("discarded", "would discard"),
    "restore": ("restored", "would restore"),
    "purge": ("erased", "would erase"),
    "import": ("imported", "would import"),
    "expire": ("erased", "would erase"),
    "export": ("exported", "would export"),
    "scan": ("mended the index of", "would mend"),
}


def count(number: int) -> str:
    """So many letters, in words."""
    return "1 letter" if number == 1 else f"{number} letters"


@final
@dataclass(frozen=True, slots=True)
class Followed:
    """How a long action ended; `last` is None when it was interrupted before it told anything."""

    last: Progress | None
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """130 when it was interrupted, 6 when letters stayed that should not, else 0."""
        from rockbot.operators.faults import ExitCode

        if self.interrupted:
            return ExitCode.INTERRUPTED
        return ExitCode.PROBLEMS if self.last is not None and self.last.refusals else ExitCode.OK


@contextmanager
def interruptible(screen: Screen) -> Iterator[asyncio.Event]:
    """An event that the first Ctrl-C sets."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)
        screen.say("finishing the batch in hand; Ctrl-C again stops at once", "warn")

    try:
        loop.add_signal_handler(signal.SIGINT, pressed)
    except (ValueError, RuntimeError):  # not the main thread: somebody else minds the signals
        yield stop
        return
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def follow(call: Invocation, stream: AsyncIterator[Progress]) -> Followed:
    """Run a long action to its end, showing how far it is, also when an error ends it."""
    steps: Any = stream
    last: Progress | None = None
    with interruptible(call.screen) as stop, _meter(call.screen) as meter:
        try:
            async with aclosing(steps):
                async for progress in steps:
                    last = progress
                    if progress.done:
                        continue  # the stream may have something to put in order yet
                    meter.tell(progress)
                    if stop.is_set():
                        return Followed(last, interrupted=True)
        except Exception:
            if last is not None:
                verb = _VERBS[last.action][last.dry_run]
                call.screen.say(f"{verb} {last.worked} of {count(last.total)}, then came the error below", "warn")
                call.screen.say("when it is mended, the same command goes on with the rest", "warn")
            raise
    return Followed(last, interrupted=False)


def report(call: Invocation, followed: Followed) -> int:
    """Show how it ended; returns the exit code."""
    last = followed.last
    if last is None:
        call.screen.say("nothing was done yet; the same command begins again", "warn")
        return followed.exit_code
    call.screen.show(last, _blocks(last, interrupted=followed.interrupted))
    if last.ended_turns:
        call.screen.say(f"the turns of {last.ended_turns} have ended: --restart-turn begins their tasks anew", "dim")
    if followed.interrupted:
        call.screen.say("the same command goes on with the rest", "warn")
    return followed.exit_code


def _blocks(last: Progress, *, interrupted: bool) -> list[Block]:
    verb = _VERBS[last.action][last.dry_run]
    of = f" of {last.total}" if last.total != last.worked else ""
    end = "; nothing was changed" if last.dry_run else "; interrupted" if interrupted else ""
    if last.action == "scan":
        blocks: list[Block] = [
            Prose(f"looked at {count(last.seen)}; {last.worked} were not in the index as they lie{end}")
        ]
    else:
        noun = "letter" if (last.total if of else last.worked) == 1 else "letters"
        blocks = [Prose(f"{verb} {last.worked}{of} {noun}{end}")]
    if last.refusals:
        named = [f"{letter_id}  {why}" for letter_id, why in last.refused[:_NAMED]]
        if last.refusals > len(named):
            named.append(f"... and {last.refusals - len(named)} more")
        blocks.append(Prose("\n".join(named), f"{count(last.refusals)} stayed"))
    return blocks


class _Meter(Protocol):
    def tell(self, progress: Progress) -> None: ...


@final
class _Lines:
    """A line every few seconds."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._next = asyncio.get_running_loop().time() + _LINE_EVERY

    def tell(self, progress: Progress) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next:
            self._next = now + _LINE_EVERY
            verb = _VERBS[progress.action][progress.dry_run]
            self._screen.signal(progress, f"{progress.seen} of {progress.total} seen, {verb} {progress.worked}", "dim")


@final
class _Bar:
    """A bar that is drawn when something happened; no thread draws it."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task: Any = None
        self._next = 0.0

    def tell(self, progress: Progress) -> None:
        if self._task is None:
            self._task = self._bar.add_task(progress.action, total=progress.total or None)
        done = progress.seen if progress.action == "scan" else progress.worked + progress.refusals
        self._bar.update(self._task, completed=done, total=max(progress.total, done) or None)
        now = asyncio.get_running_loop().time()
        if now >= self._next:
            self._next = now + _DRAW_EVERY
            self._bar.refresh()


@contextmanager
def _meter(screen: Screen) -> Iterator[_Meter]:
    if screen.json or not sys.stderr.isatty():
        yield _Lines(screen)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr, highlight=False, emoji=False),
        auto_refresh=False,
        transient=True,
    )
    with bar:
        yield _Bar(bar)
