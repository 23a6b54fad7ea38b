"""Sums over the rows of one queue: how many letters, how old, of which groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from rockbot.letters.groups import normalise
from rockbot.letters.index import id_of, instant_of
from rockbot.letters.matching import SHORTEST_PREFIX, Match
from rockbot.letters.models import GroupInfo
from rockbot.letters.rows import Fields, decode, foreign_id_of, group_of, is_step_row
from rockbot.state.keys import Key
from rockbot.state.ports import Entry
from rockbot_messaging.errors import LetterNotFound

__all__ = ["Counting", "Grouping", "Naming", "Steps"]

_HOUR_MS: Final = 3_600_000
_NAMED: Final = 5


@final
class Counting:
    """How many rows, the first and the last death, and the deaths of the last hour; no row is decoded for it."""

    def __init__(self, now_ms: int) -> None:
        self._since_ms = now_ms - _HOUR_MS
        self.count = 0
        self.per_hour = 0
        self.oldest_ms: int | None = None
        self.newest_ms: int | None = None

    def take(self, entries: Sequence[Entry]) -> None:
        """Look at some more rows, later ones than before."""
        if self.oldest_ms is None:
            self.oldest_ms = instant_of(entries[0].key)
        self.newest_ms = instant_of(entries[-1].key)
        self.count += len(entries)
        if self.newest_ms > self._since_ms:
            self.per_hour += sum(instant_of(entry.key) > self._since_ms for entry in entries)


@final
class _Group:
    __slots__ = ("count", "example", "first", "newest_ms", "oldest_ms")

    def __init__(self, first: Fields, at_ms: int) -> None:
        self.first = first
        self.count = 0
        self.oldest_ms = self.newest_ms = at_ms
        self.example = ""


@final
class Grouping:
    """Groups of the rows that fit. The example is the letter that died last."""

    def __init__(self, queue: str, match: Match) -> None:
        self._queue = queue
        self._match = match
        self._groups: dict[str, _Group] = {}

    def take(self, entries: Sequence[Entry]) -> None:
        """Look at some more rows, later ones than before."""
        match = self._match
        everything = match.everything_ever
        for entry in entries:
            if not everything and not match.takes(entry):
                continue
            at_ms = instant_of(entry.key)
            name = group_of(entry.value)
            group = self._groups.get(name)
            if group is None:
                group = self._groups[name] = _Group(decode(entry.value), at_ms)
            group.count += 1
            group.newest_ms = at_ms
            group.example = entry.key

    def groups(self) -> list[GroupInfo]:
        """What was found, in no order."""
        return [
            GroupInfo(
                id=name,
                queue=self._queue,
                error_type=group.first.get("error", ""),
                reason=normalise(group.first.get("reason", "")),
                handler=group.first.get("handler", ""),
                type=group.first.get("type", ""),
                count=group.count,
                oldest_ms=group.oldest_ms,
                newest_ms=group.newest_ms,
                example=id_of(Key(group.example)),
            )
            for name, group in self._groups.items()
        ]


@final
class Steps:
    """Those of the rows that fit that are steps of turns: how many, and the first of them."""

    def __init__(self, match: Match) -> None:
        self._match = match
        self.count = 0
        self.first = ""

    def take(self, entries: Sequence[Entry]) -> None:
        """Look at some more rows."""
        for entry in entries:
            if is_step_row(entry.value) and self._match.takes(entry):
                self.count += 1
                self.first = self.first or id_of(entry.key)


@final
class Naming:
    """Which letters are meant by ids, beginnings of ids and publishers' own ids. An id that is one letter's whole id means no
    other letter."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._wanted = dict.fromkeys(ids)
        self._whole: set[str] = set()
        self._meant: dict[str, set[str]] = {each: set() for each in ids}
        self._beginnings = tuple(each for each in ids if len(each) >= SHORTEST_PREFIX)

    def take(self, entries: Sequence[Entry]) -> None:
        """Look at some more rows."""
        for entry in entries:
            its_id = id_of(entry.key)
            if its_id in self._wanted:
                self._whole.add(its_id)
                continue
            if (foreign := foreign_id_of(entry.value)) and foreign in self._wanted:
                self._add(foreign, its_id)
            if self._beginnings and its_id.startswith(self._beginnings):
                for each in self._beginnings:
                    if its_id.startswith(each):
                        self._add(each, its_id)

    def _add(self, asked: str, its_id: str) -> None:
        found = self._meant[asked]
        if len(found) <= _NAMED:
            found.add(its_id)

    def join(self, other: Naming) -> None:
        """Add what was found in another queue."""
        self._whole |= other._whole
        for each, found in other._meant.items():
            self._meant[each] |= found

    def whole_ids(self) -> tuple[str, ...]:
        """The whole ids that are meant; one that no letter has stays as it is.

        Raises:
            LetterNotFound: a beginning means several letters.
        """
        meant = []
        for each in self._wanted:
            found = set() if each in self._whole else self._meant[each]
            if len(found) > 1:
                named = ", ".join(sorted(found)[:_NAMED])
                raise LetterNotFound(f"{each!r} may mean {named}: give more of the id")
            meant.append(next(iter(found), each))
        return tuple(meant)
