"""Pages of letters: a place in the order of deaths instead of a number, so that letters may come and go between two pages."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, final

from rockbot.letters.index import instant_of
from rockbot.letters.matching import Match
from rockbot.letters.models import LetterPage
from rockbot.letters.rows import decode, model_of
from rockbot.operators.faults import InvalidRequest
from rockbot.state.ports import Entry

__all__ = ["LARGEST_PAGE", "Order", "Place", "Selection", "page_of", "place_of"]

Order = Literal["oldest", "newest"]
#: Where a letter stands among all: instant of death, queue, key of its row.
Place = tuple[int, str, str]

#: Letters that are told at once at most.
LARGEST_PAGE: Final = 1000


@final
class Selection:
    """Goes over the rows of one queue and keeps the first of those that fit behind a place, and counts them all."""

    def __init__(self, queue: str, match: Match, *, limit: int, order: Order, after: Place | None) -> None:
        self.total = 0
        self._queue = queue
        self._match = match
        self._limit = limit + 1  # one more tells whether there is another page
        self._newest = order == "newest"
        self._after = after
        self._kept: list[tuple[Place, bytes]] = []
        self._worst: Place | None = None

    def take(self, entries: Sequence[Entry]) -> None:
        """Look at some more rows."""
        match = self._match
        everything = match.everything_ever
        for entry in entries:
            if not everything and not match.takes(entry):
                continue
            self.total += 1
            place = (instant_of(entry.key), self._queue, entry.key)
            if self._after is not None and not self._is_behind(place, self._after):
                continue
            if self._worst is not None and self._is_behind(place, self._worst):
                continue
            self._kept.append((place, entry.value))
            if len(self._kept) >= 4 * self._limit:
                self._trim()

    def best(self) -> list[tuple[Place, bytes]]:
        """What was kept, in order."""
        self._trim()
        return self._kept

    def _is_behind(self, place: Place, other: Place) -> bool:
        return place < other if self._newest else place > other

    def _trim(self) -> None:
        self._kept.sort(reverse=self._newest)
        del self._kept[self._limit :]
        if len(self._kept) == self._limit:
            self._worst = self._kept[-1][0]


def page_of(selections: Iterable[Selection], *, limit: int, order: Order) -> LetterPage:
    """The page of several queues together."""
    chosen = list(selections)
    kept = sorted((each for selection in chosen for each in selection.best()), reverse=order == "newest")
    more = len(kept) > limit
    kept = kept[:limit]
    letters = tuple(model_of(decode(value), place[1]) for place, value in kept)
    following = _token(kept[-1][0], order) if more and kept else None
    return LetterPage(letters=letters, total=sum(selection.total for selection in chosen), next=following)


def place_of(token: str, order: Order) -> Place:
    """The place that a page's `next` stands for.

    Raises:
        InvalidRequest: it is no page's `next`, or one of the other order.
    """
    try:
        fields: Any = json.loads(base64.urlsafe_b64decode(token.encode()))
        its_order, at_ms, queue, row = fields
        if not (isinstance(at_ms, int) and isinstance(queue, str) and isinstance(row, str)):
            raise ValueError("not a place")
    except (ValueError, TypeError):
        raise InvalidRequest(f"{token[:40]!r} is no page's continuation: begin with the first page again") from None
    if its_order != order:
        raise InvalidRequest(f"this continuation is of pages with the {its_order} first; ask for the same order")
    return at_ms, queue, row


def _token(place: Place, order: Order) -> str:
    return base64.urlsafe_b64encode(json.dumps([order, *place], separators=(",", ":")).encode()).decode()
