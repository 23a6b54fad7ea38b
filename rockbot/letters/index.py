"""The index of dead letters: rows in the state store, because a broker's queue can only be read from its head.

A row is a value under ``@system/letter/<queue>/<instant of death>/<id>``, so that a listing is in the order of death, and
that whoever writes the row of a letter, and however often, writes the same one. Operators see the letters of all tenants;
so the rows lie in a space of the system, and the tenant is a field of them. Everything here that belongs to one tenant only
(the turn of a letter) is read under that tenant's own keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Final, final

from rockbot.letters.rows import Fields, encode, row_of
from rockbot.state.keys import Key, Prefix, key, key_parts, prefix
from rockbot.state.ports import Entry, StateStore, VersionConflict, Write
from rockbot_messaging.errors import LettersBusy
from rockbot_messaging.letters import Letter

__all__ = ["SYSTEM", "LetterIndex", "Scanned", "id_of", "instant_of", "lease_key", "row_key"]

#: The tenant of what belongs to no tenant. The spaces of these modules are used under no other one.
SYSTEM: Final = "@system"

_ROWS: Final = "letter"
_SCANS: Final = "letter-scan"
_WORK: Final = "letter-work"
_LEASES: Final = "letter-lease"

#: Instants in keys have so many digits; what does not fit (a broker's clock gone mad) is brought to the nearest end.
_DIGITS: Final = 15
_LATEST: Final = 10**_DIGITS - 1
_PAGE: Final = 4000
_SLICE: Final = 1000
#: Seconds after which a queue counts as unattended, when whoever worked it does not say that it goes on.
_WORK_SECONDS: Final = 60.0


@final
@dataclass(frozen=True, slots=True)
class Scanned:
    """The last comparison of a queue with its rows: when, how long it took, and how many letters were copies of others."""

    at_ms: int
    took_ms: int = 0
    copies: int = 0


def row_key(queue: str, at_ms: int, letter_id: str) -> Key:
    """Where the row of a letter lies."""
    at = f"{min(max(at_ms, 0), _LATEST):0{_DIGITS}d}"
    return key(SYSTEM, _ROWS, queue, at, letter_id.encode("utf-8", "backslashreplace").decode() or "-")


def lease_key(queue: str) -> Key:
    """The lease of whoever compares a queue with its rows."""
    return key(SYSTEM, _LEASES, queue)


def instant_of(row: str) -> int:
    """The instant of death in a row's key."""
    return int(row.rsplit("/", 2)[1])


def id_of(row: Key) -> str:
    """The letter's id in a row's key."""
    return key_parts(row)[-1]


@final
class LetterIndex:
    """Rows of letters in `store`. Every method may raise `StateUnavailable`."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    # -- rows

    def write_of(self, letter: Letter, queue: str, row: Fields | None = None) -> Write:
        """The write of a letter's row."""
        at_key = row_key(queue, letter.failure.at_ms, letter.id)
        return Write(key=at_key, value=encode(row_of(letter, queue) if row is None else row))

    def removal_of(self, letter: Letter, queue: str) -> Write:
        """The removal of a letter's row."""
        return Write(key=row_key(queue, letter.failure.at_ms, letter.id), value=None)

    async def write(self, writes: Iterable[Write]) -> None:
        """Carry out some writes together; of several to one key the last one counts."""
        last = {each.key: each for each in writes}
        if last:
            await self._store.write(tuple(last.values()))

    async def remove(self, rows: Sequence[tuple[Key, int]]) -> int:
        """Remove rows that still have these versions; how many had."""
        try:
            await self._store.write(tuple(Write(key=at, value=None, expect=version) for at, version in rows))
        except VersionConflict:
            removed = 0
            for at, version in rows:
                try:
                    removed += await self._store.delete(at, expect=version)
                except VersionConflict:
                    continue
            return removed
        return len(rows)

    async def pages(self, queue: str) -> AsyncIterator[Sequence[Entry]]:
        """Every row of a queue, the earliest death first, some at a time."""
        after: str | None = None
        while True:
            page = await self._store.list(_rows(queue), after=after, limit=_PAGE)
            for start in range(0, len(page.entries), _SLICE):
                yield page.entries[start : start + _SLICE]
                await asyncio.sleep(0)  # whoever goes over a hundred thousand rows lets others run in between
            if page.next is None:
                return
            after = page.next

    async def oldest(self, queue: str) -> int | None:
        """The instant of the earliest death, None when there is no row."""
        page = await self._store.list(_rows(queue), limit=1)
        return instant_of(page.entries[0].key) if page.entries else None

    async def latest(self, queue: str, now_ms: int) -> int:
        """The instant of the latest death that is known, at least `now_ms`: a host's clock may be ahead of ours."""
        latest = now_ms
        after: str | None = f"{_rows(queue)}{min(max(now_ms + 1, 0), _LATEST):0{_DIGITS}d}"
        while after is not None:
            page = await self._store.list(_rows(queue), after=after, limit=_PAGE)
            if page.entries:
                latest = max(latest, instant_of(page.entries[-1].key))
            after = page.next
        return latest

    async def has(self, queue: str, at_ms: int, letter_id: str) -> bool:
        """Whether a letter has a row."""
        return await self._store.get(row_key(queue, at_ms, letter_id)) is not None

    # -- what is known of a queue

    async def scanned(self, queue: str) -> Scanned | None:
        """When the queue was last compared with its rows; None: never, or it has to be done again."""
        entry = await self._store.get(key(SYSTEM, _SCANS, queue))
        if entry is None:
            return None
        try:
            found = json.loads(entry.value)
            return Scanned(int(found["at_ms"]), int(found["took_ms"]), int(found["copies"]))
        except (ValueError, TypeError, LookupError):
            return None

    async def note_scanned(self, queue: str, scanned: Scanned) -> None:
        """Remember that the queue was compared."""
        await self._store.put(key(SYSTEM, _SCANS, queue), json.dumps(asdict(scanned)).encode())

    async def scan_needed(self, queue: str) -> None:
        """Forget that the queue was compared: something about it is not known."""
        await self._store.delete(key(SYSTEM, _SCANS, queue))

    # -- who is at work

    async def working(self, queue: str, who: str) -> int:
        """Say who is (still) at work on the queue; to be said again within a minute. Returns what `done` takes."""
        said = who.encode("utf-8", "replace")
        return await self._store.put(key(SYSTEM, _WORK, queue), said, ttl=_WORK_SECONDS)

    async def done(self, queue: str, said: int) -> None:
        """Say that it is not any more; what somebody else has said since stays."""
        with contextlib.suppress(VersionConflict):
            await self._store.delete(key(SYSTEM, _WORK, queue), expect=said)

    async def at_work(self, queue: str) -> str | None:
        """Who is at work on the queue: its rows follow batch by batch, and its letters are out of sight."""
        entry = await self._store.get(key(SYSTEM, _WORK, queue))
        return entry.value.decode("utf-8", "replace") if entry else None

    async def is_worked(self, queue: str) -> bool:
        """Whether somebody is."""
        return await self.at_work(queue) is not None

    @asynccontextmanager
    async def telling_who_works(self, queue: str) -> AsyncGenerator[None]:
        """Have a `LettersBusy` from inside say who is at work."""
        try:
            yield
        except LettersBusy as exc:
            who = await self.at_work(queue)
            if who is None:
                raise
            raise LettersBusy(f"{exc}. At work there: {who}") from None


def _rows(queue: str) -> Prefix:
    return prefix(SYSTEM, _ROWS, queue)
