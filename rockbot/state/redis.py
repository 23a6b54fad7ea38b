"""State in Redis or Valkey: the store of hosts that have one already.

One server, with replicas or without; not a cluster. It keeps what it acknowledged only with ``appendonly yes``,
``appendfsync always`` and ``maxmemory-policy noeviction``: anything else is told when the store is opened. The clock is
the server's. Import this module only when such a store is asked for: it needs the extra `redis`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from rockbot.state import redis_whole, rules
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
    Snapshot,
    Timer,
    Write,
    _Any,
)
from rockbot.state.redis_scripts import SERVER_CLOCK
from rockbot.state.redis_server import RedisAddress, RedisServer

__all__ = ["RedisStateStore"]

_log: Final = logging.getLogger(__name__)

Argument = str | bytes | int | float


@final
class RedisStateStore:
    """A `StateStore` under the prefix of an address.

    `doubts` says after `open` which settings of the server let it lose what it acknowledged. `clock` is the Lua that sets
    `now`, in epoch milliseconds; other than the server's clock it is for tests.
    """

    def __init__(self, url: str, *, clock: str = SERVER_CLOCK) -> None:
        """Raises ConfigError: the address is wrong."""
        address = RedisAddress.parse(url)
        self._server = RedisServer(address, clock)
        self._shown = address.shown
        self.doubts: tuple[str, ...] = ()

    async def open(self) -> None:
        doubts = await self._server.open()
        if doubts:
            self.doubts = doubts
            _log.warning("state store %s is lossy: %s", self._shown, "; ".join(doubts))

    async def close(self) -> None:
        await self._server.close()

    async def now_ms(self) -> int:
        return int(await self._server.run("now"))

    # -- values

    async def get(self, key: Key) -> Entry | None:
        found = await self._server.run("get", key)
        return Entry(key, found[0], found[1]) if found else None

    async def put(self, key: Key, value: bytes, *, expect: int | _Any = ANY, ttl: float | None = None) -> int:
        return await self._write([Write(key=key, value=value, expect=expect, ttl=ttl)])

    async def delete(self, key: Key, *, expect: int | _Any = ANY) -> bool:
        return await self._write([Write(key=key, value=None, expect=expect)]) > 0

    async def list(self, prefix: Prefix, *, after: str | None = None, limit: int = 100) -> Page:
        rules.check_limit(limit)
        begin = f"[{prefix}" if after is None or after < prefix else f"({after}"
        space = "/".join(prefix.split("/")[:2])
        rows = await self._server.run("page", space, begin, f"({rules.prefix_end(prefix)}", limit)
        entries = tuple(Entry(Key(key.decode()), value, version) for key, value, version in rows[:limit])
        return Page(entries, entries[-1].key if len(rows) > limit else None)

    async def write(self, writes: Sequence[Write]) -> None:
        rules.check_writes(writes)
        if writes:
            await self._write(writes)

    async def _write(self, writes: Sequence[Write]) -> int:
        conflict, version = await self._server.run("write", *_told_writes(writes))
        if conflict:
            rules.check_version(writes[conflict - 1].key, writes[conflict - 1].expect, version)
        return int(version)

    async def commit(self, effect: Commit) -> None:
        rules.check_commit(effect)
        conflict, version = await self._server.run(
            "commit",
            effect.mark,
            effect.cause,
            rules.instant(0, effect.remember),
            *_told_writes(effect.writes),
            *_told_rows(effect.outbox),
        )
        if conflict < 0:
            raise rules.already_committed(effect)
        if conflict:
            wrong = effect.writes[conflict - 1]
            rules.check_version(wrong.key, wrong.expect, version)

    async def committed(self, mark: Key, *, cause: str) -> Sequence[OutboxRow] | None:
        rows = await self._server.run("committed", mark, cause)
        return None if rows is None else _outbox_rows(rows)

    # -- streams

    async def append(self, step: Append) -> int:
        rules.check_step(step)
        told: list[Argument] = [step.stream, step.expected_version, step.handled, len(step.records), *step.records]
        told += [0, b""] if step.snapshot is None else [1, step.snapshot]
        told += [len(step.answered), *step.answered, *_told_rows(step.outbox)]
        told += [len(step.canceled_timers), *step.canceled_timers, len(step.timers)]
        for timer in step.timers:
            told += [timer.id, timer.due_ms, timer.payload]
        told.append(len(step.index))
        for row in step.index:
            told += [row.key, *_told_value(row.value)]
        conflict, version = await self._server.run("append", *told)
        if conflict:
            raise rules.stream_conflict(step, version, handled=conflict == 2)
        return int(version)

    async def load(self, stream: Key, *, handled: str = "") -> Loaded:
        found = await self._server.run("load", stream, handled)
        if not found:
            return Loaded(version=0, snapshot=None, records=())
        version, kept, snapshot, records, was_handled, rows = found
        return Loaded(
            version=version,
            snapshot=Snapshot(kept, snapshot) if kept else None,
            records=_records(records, kept),
            handled=bool(was_handled),
            unanswered=_outbox_rows(rows),
        )

    async def read(self, stream: Key, *, after: int = 0, limit: int = 1000) -> Sequence[Record]:
        rules.check_limit(limit)
        return _records(await self._server.run("read", stream, after, after + limit - 1), after)

    # -- outbox

    async def mark_sent(self, ids: Sequence[str]) -> None:
        if ids:
            await self._server.run("mark_sent", len(ids), *ids)

    async def claim_outbox(self, *, owner: str, idle: float, claim: float, limit: int) -> Sequence[OutboxRow]:
        rules.check_limit(limit)
        idle_ms = rules.instant(0, idle)
        rows = await self._server.run(
            "claim", owner, idle_ms, rules.instant(0, claim), rules.longest_wait_ms(idle_ms), limit
        )
        return _outbox_rows(rows)

    # -- timers

    async def due(self, *, before_ms: int, limit: int) -> Sequence[Timer]:
        rules.check_limit(limit)
        rows = await self._server.run("due", before_ms, limit)
        return tuple(Timer(name.decode(), round(float(due)), payload) for name, due, payload in rows)

    async def drop_timers(self, timers: Sequence[Timer]) -> None:
        if timers:
            told: list[Argument] = [len(timers)]
            for timer in timers:
                told += [timer.id, timer.due_ms]
            await self._server.run("drop_timers", *told)

    # -- leases

    async def acquire_lease(self, name: Key, *, owner: str, ttl: float) -> Lease | None:
        found = await self._server.run("acquire_lease", name, owner, rules.instant(0, ttl))
        return Lease(name, owner, *found) if found else None

    async def release_lease(self, lease: Lease) -> None:
        await self._server.run("release_lease", lease.name, lease.token)

    # -- amounts

    async def reserve(self, key: Key, amount: float, *, limit: float, id: str, ttl: float) -> Reservation:
        rules.check_amount(amount, "a reservation")
        granted, taken = await self._server.run(
            "reserve", key, repr(amount), repr(limit), id, rules.instant(0, ttl), rules.REMEMBER_MS
        )
        return Reservation(bool(granted), float(taken), limit)

    async def settle(self, id: str, actual: float) -> bool:
        rules.check_amount(actual, "the use")
        return bool(await self._server.run("settle", id, repr(actual), rules.REMEMBER_MS))

    async def drop_amounts(self, keys: Sequence[Key]) -> int:
        return int(await self._server.run("erase_amounts", len(keys), *keys)) if keys else 0

    # -- whole

    async def census(self) -> Census:
        return await redis_whole.census(self._server)

    async def dump(self, kind: ItemKind, *, after: str | None = None, limit: int = 100) -> Dump:
        rules.check_limit(limit)
        return await redis_whole.dump(self._server, kind, after=after, limit=limit)

    async def restore(self, items: Sequence[Item]) -> None:
        if kind := rules.check_items(items):
            await redis_whole.restore(self._server, kind, items)

    async def erase(self, under: Prefix) -> Mapping[ItemKind, int]:
        return await redis_whole.erase(self._server, under)

    async def drop_rows(self, ids: Sequence[str]) -> int:
        return int(await self._server.run("drop_rows", len(ids), *ids)) if ids else 0


def _told_value(value: bytes | None) -> tuple[Argument, Argument]:
    return (0, b"") if value is None else (1, value)


def _told_writes(writes: Sequence[Write]) -> Sequence[Argument]:
    told: list[Argument] = [len(writes)]
    for write in writes:
        told += [write.key, "" if isinstance(write.expect, _Any) else write.expect, *_told_value(write.value)]
        told.append("" if write.ttl is None else rules.instant(0, write.ttl))
    return told


def _told_rows(rows: Sequence[OutboxRow]) -> Sequence[Argument]:
    told: list[Argument] = [len(rows)]
    for row in rows:
        told += [row.id, row.cause, row.door, row.address, int(row.awaits_answer), row.message]
    return told


def _records(texts: Sequence[bytes], after: int) -> tuple[Record, ...]:
    records = []
    for version, text in enumerate(texts, after + 1):
        at_ms, _, value = text.partition(b"\n")
        records.append(Record(version, value, int(at_ms)))
    return tuple(records)


def _outbox_rows(rows: Sequence[Any]) -> tuple[OutboxRow, ...]:
    return tuple(
        OutboxRow(
            id=name.decode(),
            cause=cause.decode(),
            message=message,
            door=door.decode(),
            address=address.decode(),
            awaits_answer=awaits == b"1",
        )
        for name, cause, message, door, address, awaits in rows
    )
