"""What an action has come to, and how fast it may go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, final

from rockbot.letters.models import Progress
from rockbot_messaging.clock import Clock

__all__ = ["Pace", "Tally", "Word"]

#: The word for an action in `Progress`.
Word = Literal["scan", "replay", "discard", "restore", "purge", "export", "import", "expire"]

_NAMED: Final = 100


@final
class Tally:
    """Counts over all queues of one action."""

    def __init__(self, word: Word, *, total: int = 0, dry_run: bool = False) -> None:
        self._word: Word = word
        self.total = total
        self._dry_run = dry_run
        self.seen = 0
        self.worked = 0
        self.ended_turns = 0
        self.refusals = 0
        self._refused: list[tuple[str, str]] = []

    def refuse(self, letter_id: str, why: str) -> None:
        """One letter stayed."""
        self.refusals += 1
        if len(self._refused) < _NAMED:
            self._refused.append((letter_id, why))

    def refuse_after_all(self, refused: Sequence[tuple[str, str]], refusals: int) -> None:
        """So many that were counted as worked stayed, these among them."""
        self.worked -= refusals
        self.refusals += refusals
        self._refused = [*self._refused, *refused][:_NAMED]

    @property
    def first_refusal(self) -> str:
        """Why the first letter stayed; empty when none did."""
        return self._refused[0][1] if self._refused else ""

    def progress(self, queue: str, *, done: bool = False) -> Progress:
        """As it is told."""
        return Progress(
            action=self._word,
            queue=queue,
            total=max(self.total, self.worked + self.refusals),
            seen=self.seen,
            worked=self.worked,
            refusals=self.refusals,
            refused=tuple(self._refused),
            ended_turns=self.ended_turns,
            dry_run=self._dry_run,
            done=done,
        )


@final
class Pace:
    """So many letters a second, evenly: after some of them, as long a pause as they are worth."""

    def __init__(self, rate: float | None, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._free_at = clock.monotonic()

    @property
    def wait(self) -> float:
        """Seconds until the next letter may go."""
        return max(0.0, self._free_at - self._clock.monotonic())

    def spend(self, letters: int) -> None:
        """So many go now."""
        if self._rate is not None:
            self._free_at = max(self._free_at, self._clock.monotonic()) + letters / self._rate
