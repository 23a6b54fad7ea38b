"""State in one SQLite file: the store of embedded hosts, and of small ones whose processes share a disk.

The write-ahead log is synced at every commit, so that what a method returned survives a power cut. Several processes may
use one file on a local disk; each has its own connection, and SQLite's write lock orders them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from rockbot.state import rules, sqlite_steps, sqlite_values, sqlite_whole
from rockbot.state.keys import Key, Prefix
from rockbot.state.ports import (
    ANY,
    Append,
    Census,
    Commit,
    Dump,
    Entry,
    Item,
    ItemKind,
    Lease,
    Loaded,
    OutboxRow,
    Page,
    Record,
    Reservation,
    Timer,
    Write,
    _Any,
)
from rockbot.state.sqlite_file import SqliteFile
from rockbot_messaging.clock import Clock

__all__ = ["SqliteStateStore"]


@final
class SqliteStateStore:
    """A `StateStore` in the file `path`, which is created when it is missing.

    The store's clock is the machine's, through `clock`. `busy_seconds` is how long a call waits for another process's
    write lock before it raises `StateUnavailable`.
    """

    def __init__(self, path: Path, clock: Clock, *, busy_seconds: float = 5.0) -> None:
        self._file = SqliteFile(path, busy_seconds=busy_seconds)
        self._clock = clock

    async def open(self) -> None:
        await self._file.open()
        try:
            await self._file.write(lambda at: sqlite_values.sweep(at, self._now()))
        except BaseException:
            await self._file.close()
            raise

    async def close(self) -> None:
        await self._file.close()

    async def now_ms(self) -> int:
        return self._now()

    # The clock is read inside the transaction: a call that had to wait for the write lock does not decide by an old time.

    # -- values

    async def get(self, key: Key) -> Entry | None:
        return await self._file.read(lambda at: sqlite_values.get(at, key, self._now()))

    async def put(self, key: Key, value: bytes, *, expect: int | _Any = ANY, ttl: float | None = None) -> int:
        return await self._file.write(
            lambda at: sqlite_values.put(at, key, value, expect=expect, ttl=ttl, now_ms=self._now())
        )

    async def delete(self, key: Key, *, expect: int | _Any = ANY) -> bool:
        return await self._file.write(lambda at: sqlite_values.delete(at, key, expect=expect, now_ms=self._now()))

    async def list(self, prefix: Prefix, *, after: str | None = None, limit: int = 100) -> Page:
        rules.check_limit(limit)
        return await self._file.read(
            lambda at: sqlite_values.page(at, prefix, after=after, limit=limit, now_ms=self._now())
        )

    async def write(self, writes: Sequence[Write]) -> None:
        rules.check_writes(writes)
        if writes:
            await self._file.write(lambda at: sqlite_values.write_all(at, writes, self._now()))

    async def commit(self, effect: Commit) -> None:
        rules.check_commit(effect)
        await self._file.write(lambda at: sqlite_steps.commit(at, effect, self._now()))

    async def committed(self, mark: Key, *, cause: str) -> Sequence[OutboxRow] | None:
        return await self._file.read(lambda at: sqlite_steps.committed(at, mark, cause, self._now()))

    # -- streams

    async def append(self, step: Append) -> int:
        rules.check_step(step)
        return await self._file.write(lambda at: sqlite_steps.append(at, step, self._now()))

    async def load(self, stream: Key, *, handled: str = "") -> Loaded:
        return await self._file.read(lambda at: sqlite_steps.load(at, stream, handled))

    async def read(self, stream: Key, *, after: int = 0, limit: int = 1000) -> Sequence[Record]:
        rules.check_limit(limit)
        return await self._file.read(lambda at: sqlite_steps.read(at, stream, after=after, limit=limit))

    # -- outbox

    async def mark_sent(self, ids: Sequence[str]) -> None:
        if ids:
            await self._file.write(lambda at: sqlite_steps.mark_sent(at, ids, self._now()))

    async def claim_outbox(self, *, owner: str, idle: float, claim: float, limit: int) -> Sequence[OutboxRow]:
        rules.check_limit(limit)
        return await self._file.write(
            lambda at: sqlite_steps.claim_outbox(
                at, owner=owner, idle=idle, claim=claim, limit=limit, now_ms=self._now()
            )
        )

    # -- timers

    async def due(self, *, before_ms: int, limit: int) -> Sequence[Timer]:
        rules.check_limit(limit)
        return await self._file.read(lambda at: sqlite_steps.due(at, before_ms, limit))

    async def drop_timers(self, timers: Sequence[Timer]) -> None:
        if timers:
            await self._file.write(lambda at: sqlite_steps.drop_timers(at, timers))

    # -- leases

    async def acquire_lease(self, name: Key, *, owner: str, ttl: float) -> Lease | None:
        return await self._file.write(
            lambda at: sqlite_values.acquire_lease(at, name, owner=owner, ttl=ttl, now_ms=self._now())
        )

    async def release_lease(self, lease: Lease) -> None:
        await self._file.write(lambda at: sqlite_values.release_lease(at, lease))

    # -- amounts

    async def reserve(self, key: Key, amount: float, *, limit: float, id: str, ttl: float) -> Reservation:
        rules.check_amount(amount, "a reservation")
        return await self._file.write(
            lambda at: sqlite_values.reserve(at, key, amount, limit=limit, id=id, ttl=ttl, now_ms=self._now())
        )

    async def settle(self, id: str, actual: float) -> bool:
        rules.check_amount(actual, "the use")
        return await self._file.write(lambda at: sqlite_values.settle(at, id, actual, self._now()))

    async def drop_amounts(self, keys: Sequence[Key]) -> int:
        return await self._file.write(lambda at: sqlite_values.drop_amounts(at, keys)) if keys else 0

    # -- whole

    async def census(self) -> Census:
        return await self._file.read(lambda at: sqlite_whole.census(at, self._now()))

    async def dump(self, kind: ItemKind, *, after: str | None = None, limit: int = 100) -> Dump:
        rules.check_limit(limit)
        return await self._file.read(
            lambda at: sqlite_whole.dump(at, kind, after=after, limit=limit, now_ms=self._now())
        )

    async def restore(self, items: Sequence[Item]) -> None:
        rules.check_items(items)
        if items:
            await self._file.write(lambda at: sqlite_whole.restore(at, items))

    async def erase(self, under: Prefix) -> Mapping[ItemKind, int]:
        gone: Counter[ItemKind] = Counter()
        while some := +await self._file.write(lambda at: sqlite_whole.erase_some(at, under)):
            gone += some
        return rules.counted(gone)

    async def drop_rows(self, ids: Sequence[str]) -> int:
        return await self._file.write(lambda at: sqlite_whole.drop_rows(at, ids)) if ids else 0

    def _now(self) -> int:
        return self._clock.now_ms()
