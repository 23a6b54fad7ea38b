"""What is the same on every provider's walk over letters: which fates are allowed, what is counted, which letter is meant."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Generic, TypeVar, final

from rockbot_messaging.errors import LetterNotFound
from rockbot_messaging.letters import Discard, Erase, Fate, Keep, Restore, SendOn, Walked

__all__ = ["SHORTEST_PREFIX", "Search", "Tally", "check_fates", "finished"]

#: Characters of an id that a person has to type at least.
SHORTEST_PREFIX: Final = 6

_REFUSALS_NAMED: Final = 100
_AMBIGUOUS_NAMED: Final = 5

T = TypeVar("T")


def check_fates(fates: Sequence[Fate], *, shown: int, discarded: bool) -> None:
    """Refuse what a visitor must not decide; `discarded` says that it was shown discarded letters.

    Raises:
        ValueError: another number of fates than letters, or a fate that this queue does not have.
    """
    if len(fates) != shown:
        raise ValueError(f"{shown} letters were shown, and {len(fates)} fates came back: there must be one for each")
    allowed = (Keep, Erase, Restore) if discarded else (Keep, Erase, SendOn, Discard)
    for fate in fates:
        if not isinstance(fate, allowed):
            raise ValueError(
                f"{type(fate).__name__} is no fate of a {'discarded' if discarded else 'dead'} letter: "
                f"use {', '.join(kind.__name__ for kind in allowed)}"
            )


@final
class Tally:
    """Counts what becomes of letters."""

    def __init__(self) -> None:
        self._counts: dict[type[Fate], int] = dict.fromkeys((Keep, SendOn, Discard, Restore, Erase), 0)
        self._refused: list[tuple[str, str]] = []
        self._refusals = 0

    def done(self, fate: Fate) -> None:
        """`fate` was carried out."""
        self._counts[type(fate)] += 1

    def refuse(self, letter_id: str, why: Exception) -> None:
        """A fate could not be carried out; the letter stayed."""
        self._refusals += 1
        if len(self._refused) < _REFUSALS_NAMED:
            self._refused.append((letter_id, str(why)))

    def walked(self) -> Walked:
        """What came of it so far."""
        counts = self._counts
        return Walked(
            seen=sum(counts.values()) + self._refusals,
            kept=counts[Keep],
            sent=counts[SendOn],
            discarded=counts[Discard],
            restored=counts[Restore],
            erased=counts[Erase],
            refusals=self._refusals,
            refused=tuple(self._refused),
        )


@final
class Search(Generic[T]):
    """Finds the one letter meant by an id or the beginning of one; of several copies of a message the oldest is meant."""

    def __init__(self, letter_id: str) -> None:
        self._wanted = letter_id
        self._found: dict[str, T | None] = {}

    def offer(self, its_id: str, item: T) -> bool:
        """Look at one letter; True when it is the one for certain, so that no other needs to be offered."""
        if its_id == self._wanted:
            self._found = {its_id: item}
            return True
        if its_id not in self._found and its_id.startswith(self._wanted) and len(self._found) < _AMBIGUOUS_NAMED:
            # Of those that only make it ambiguous the id is enough.
            self._found[its_id] = None if self._found else item
        return False

    def result(self, queue: str) -> T:
        """The letter that is meant.

        Raises:
            LetterNotFound: none, or more than one; the text says which.
        """
        wanted, found = self._wanted, self._found
        if wanted not in found and len(wanted) < SHORTEST_PREFIX:
            raise LetterNotFound(
                f"{wanted!r} is too short for the beginning of an id: give {SHORTEST_PREFIX} characters or more"
            )
        if len(found) > 1:
            raise LetterNotFound(f"{wanted!r} is ambiguous in {queue}: {', '.join(sorted(found))}; give more of the id")
        for item in found.values():
            if item is not None:
                return item
        raise LetterNotFound(f"no letter {wanted!r} lies in {queue}")


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end also when whoever waits for it is cancelled meanwhile; the cancellation comes after it.

    What was stored and not yet removed would be there twice.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()
        raise
