"""Carrying a store elsewhere: into a file, out of a file, into another store of any kind.

Memory stays flat: a page of items at a time. What ends with processes stays behind (leases, presence). A store that is being
filled carries a mark until it is complete, so that a copy that was cut off is not taken for one.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, final

from rockbot.presence import processes
from rockbot.state.data import StateError
from rockbot.state.desk.archive import (
    ArchiveError,
    Tally,
    footer_line,
    header_line,
    item_line,
    read_header,
    read_line,
)
from rockbot.state.items import DUMP_BYTES, KINDS, Item, ItemKind, NumberItem, ReservationItem, ValueItem, kind_of
from rockbot.state.keys import key, prefix
from rockbot.state.ports import StateStore
from rockbot.state.rules import REMEMBER_MS

__all__ = ["UNFINISHED", "MoveRefused", "Moved", "export", "load", "migrate", "unfinished", "verify"]

#: The mark of a store that is being filled.
UNFINISHED: Final = key("host", "moving", "unfinished")
_LEFT_BEHIND: Final = (prefix("host", "status"), prefix("host", "moving"))
_PAGE: Final = 200
#: Milliseconds that the comparison of two stores may take beyond what the copy took.
_MARGIN_MS: Final = 60_000

Progress = Callable[[ItemKind, int], None]


class MoveRefused(StateError):
    """It would mix or lose state, or what came out is not what went in; the text says what to do."""


@final
@dataclass(frozen=True, slots=True)
class Moved:
    """How many items of each kind were carried."""

    counts: dict[ItemKind, int] = field(default_factory=dict)


async def export(store: StateStore, to: IO[bytes], *, release: str, progress: Progress | None = None) -> Moved:
    """Write an archive of a store."""
    digest, tally = hashlib.sha256(), Tally()

    def write(line: bytes) -> None:
        digest.update(line)
        to.write(line)

    write(header_line(server=(await store.census()).server, release=release, at_ms=await store.now_ms()))
    async for page in _pages(store, progress):
        for item in page:
            line = item_line(item)
            tally.add(item, line)
            write(line)
    to.write(footer_line(tally, digest.hexdigest()))
    to.flush()
    return Moved(tally.counts)


def verify(path: Path) -> Moved:
    """Read an archive whole and compare it with its last line.

    Raises:
        ArchiveError: it is damaged or cut, or of a newer release. OSError: it cannot be read.
    """
    tally = Tally()
    for item, line in _read(path):
        tally.add(item, line)
    return Moved(tally.counts)


async def load(store: StateStore, path: Path, *, merge: bool = False, progress: Progress | None = None) -> Moved:
    """Put an archive into a store.

    It is verified first; nothing is written when it is damaged. With `merge` what is in the store stays, unless the archive
    has something of that name.

    Raises:
        ArchiveError, OSError: as `verify`. MoveRefused: the store is not empty.
    """
    verify(path)
    await _begin(store, merge=merge)
    tally = Tally()
    batch: list[Item] = []
    size = 0
    for item, line in _read(path):
        if batch and (len(batch) >= _PAGE or size >= DUMP_BYTES or kind_of(batch[0]) != kind_of(item)):
            await _restore(store, batch, progress, tally)
            batch, size = [], 0
        tally.add(item, line)
        batch.append(item)
        size += len(line)
    await _restore(store, batch, progress, tally)
    await store.delete(UNFINISHED)
    return Moved(tally.counts)


async def migrate(
    source: StateStore, to: StateStore, *, force: bool = False, progress: Progress | None = None
) -> Moved:
    """Copy a store into an empty one, and compare the two.

    `force` copies although processes run on the source: what they write meanwhile may be missing.

    Raises:
        MoveRefused: processes run on the source, the other store is not empty, or the copy is not the same.
    """
    if not force and (running := [process.owner for process in await processes(source)]):
        raise MoveRefused(
            f"{len(running)} process(es) run on this store ({', '.join(running[:3])}): stop them first, or what they write"
            " meanwhile may be missing from the copy; --force copies all the same"
        )
    await _begin(to, merge=False)
    began_ms = await source.now_ms()
    tally = Tally()
    async for page in _pages(source, progress):
        for item in page:
            tally.add(item)
        await to.restore(page)
    now_ms = await source.now_ms()
    # What ends while the two are compared would be missing from one of them.
    horizon = max(now_ms, await to.now_ms()) + (now_ms - began_ms) * 2 + _MARGIN_MS
    differences = (await _tally(source, horizon)).differences(await _tally(to, horizon))
    if differences:
        raise MoveRefused(
            f"the copy is not what the source is now ({'; '.join(differences)}): stop what writes to it, empty the copy, and"
            " do it again"
        )
    await to.delete(UNFINISHED)
    return Moved(tally.counts)


async def unfinished(store: StateStore) -> bool:
    """Whether a copy into this store did not come to its end."""
    return await store.get(UNFINISHED) is not None


async def _begin(store: StateStore, *, merge: bool) -> None:
    if not merge:
        async for page in _pages(store, None):
            if there := next((item for item in page if not isinstance(item, NumberItem)), None):
                raise MoveRefused(
                    f"the store is not empty (it has a {kind_of(there)} at least): name an empty one; an import with --merge"
                    " keeps what is there and replaces what has the same name"
                )
    await store.put(UNFINISHED, b"a copy into this store has not come to its end")


async def _restore(store: StateStore, batch: list[Item], progress: Progress | None, tally: Tally) -> None:
    if batch:
        await store.restore(batch)
        if progress is not None:
            kind = kind_of(batch[0])
            progress(kind, tally.counts.get(kind, 0))


async def _tally(store: StateStore, horizon: int) -> Tally:
    tally = Tally()
    async for page in _pages(store, None):
        for item in page:
            match item:
                case ValueItem(until_ms=int(until_ms)) if until_ms <= horizon:
                    continue
                case ReservationItem(until_ms=until_ms) if until_ms + REMEMBER_MS <= horizon:
                    continue
            tally.add(item)
    return tally


async def _pages(store: StateStore, progress: Progress | None) -> AsyncIterator[tuple[Item, ...]]:
    """Everything in a store that outlives processes, some items of one kind at a time."""
    for kind in KINDS:
        count = 0
        after: str | None = None
        while True:
            page = await store.dump(kind, after=after, limit=_PAGE)
            items = tuple(
                item for item in page.items if not (isinstance(item, ValueItem) and item.key.startswith(_LEFT_BEHIND))
            )
            count += len(items)
            if items:
                yield items
                if progress is not None:
                    progress(kind, count)
            if (after := page.next) is None:
                break


def _read(path: Path) -> Iterator[tuple[Item, bytes]]:
    """The items of an archive with their lines; what does not fit its last line is an error at the end."""
    digest, tally = hashlib.sha256(), Tally()
    with path.open("rb") as file:
        header = file.readline()
        read_header(header)
        digest.update(header)
        for number, line in enumerate(file, 2):
            found = read_line(line, number)
            if isinstance(found, dict):
                if found.get("sha256") != digest.hexdigest() or found.get("counts") != tally.counts:
                    raise ArchiveError(f"{path} is damaged: it is not what its last line says")
                if file.readline():
                    raise ArchiveError(f"{path} is damaged: there is more behind its last line")
                return
            digest.update(line)
            tally.add(found, line)
            yield found, line
    raise ArchiveError(f"{path} is cut off: it has no last line; nothing of it was used")
