"""State in PostgreSQL: the store of hosts on several machines.

What a method returned is on the server's disk (`synchronous_commit` is at least on). The clock is the database's. Import
this module only when such a store is asked for: it needs the extra `sql`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from rockbot.state import postgres_whole, rules
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
from rockbot.state.postgres_pool import PostgresAddress, PostgresPool

__all__ = ["PostgresStateStore"]

_ROW: Final = "id, cause, message, door, address, awaits_answer"
_LIVE: Final = "(expires_ms IS NULL OR expires_ms > (SELECT @.clock_ms()))"
# One statement sees one state of the data, so what is loaded together fits together.
_LOAD: Final = """SELECT held.version, kept.version AS kept_version, kept.value AS kept_value,
    EXISTS (SELECT FROM @.state_handled AS done WHERE done.stream = held.id AND done.message = $2) AS handled,
    (SELECT array_agg((version, value, at_ms) ORDER BY version) FROM @.state_records
        WHERE stream = held.id AND version > coalesce(kept.version, 0)) AS records,
    CASE WHEN $2 <> '' THEN (SELECT array_agg((id, cause, message, door, address, awaits_answer) ORDER BY seq)
        FROM @.state_outbox WHERE stream = held.id AND cause = $2) END AS unanswered
    FROM @.state_streams AS held LEFT JOIN @.state_snapshots AS kept ON kept.stream = held.id WHERE held.key = $1"""
_COMMITTED: Final = f"""SELECT (SELECT array_agg((id, cause, message, door, address, awaits_answer) ORDER BY seq)
        FROM @.state_outbox WHERE stream = -mark.version AND cause = $2) AS unsent
    FROM @.state_values AS mark WHERE key = $1 AND {_LIVE}"""  # noqa: S608 - our own names


@final
class PostgresStateStore:
    """A `StateStore` in the database and schema of an address."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError: the address is wrong."""
        self._pool = PostgresPool(PostgresAddress.parse(url))

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def now_ms(self) -> int:
        return int((await self._pool.row("SELECT @.clock_ms()"))[0])

    # -- values

    async def get(self, key: Key) -> Entry | None:
        found = await self._pool.rows(f"SELECT value, version FROM @.state_values WHERE key = $1 AND {_LIVE}", key)  # noqa: S608 - our own names
        return Entry(key, found[0][0], found[0][1]) if found else None

    async def put(self, key: Key, value: bytes, *, expect: int | _Any = ANY, ttl: float | None = None) -> int:
        return await self._write([Write(key=key, value=value, expect=expect, ttl=ttl)])

    async def delete(self, key: Key, *, expect: int | _Any = ANY) -> bool:
        return await self._write([Write(key=key, value=None, expect=expect)]) > 0

    async def list(self, prefix: Prefix, *, after: str | None = None, limit: int = 100) -> Page:
        rules.check_limit(limit)
        begin, bound = (prefix, ">=") if after is None or after < prefix else (after, ">")
        rows = await self._pool.rows(
            f"SELECT key, value, version FROM @.state_values WHERE key {bound} $1 AND key < $2 AND {_LIVE}"  # noqa: S608 - our own names
            " ORDER BY key LIMIT $3",
            begin,
            rules.prefix_end(prefix),
            limit + 1,
        )
        entries = tuple(Entry(Key(key), value, version) for key, value, version in rows[:limit])
        return Page(entries, entries[-1].key if len(rows) > limit else None)

    async def write(self, writes: Sequence[Write]) -> None:
        rules.check_writes(writes)
        if writes:
            await self._write(writes)

    async def _write(self, writes: Sequence[Write]) -> int:
        conflict, version = await self._pool.row(
            "SELECT * FROM @.write_all($1::text[], $2::bytea[], $3::bigint[], $4::bigint[])", *_columns_of(writes)
        )
        if conflict:
            rules.check_version(writes[conflict - 1].key, writes[conflict - 1].expect, version)
        return int(version)

    async def commit(self, effect: Commit) -> None:
        rules.check_commit(effect)
        conflict, version = await self._pool.row(
            "SELECT * FROM @.commit_effects($1, $2, $3, $4::text[], $5::bytea[], $6::bigint[], $7::bigint[],"
            " $8::text[], $9::text[], $10::text[], $11::text[], $12::bool[], $13::bytea[])",
            effect.mark,
            effect.cause.encode(),
            rules.instant(0, effect.remember),
            *_columns_of(effect.writes),
            *_columns_of_rows(effect.outbox),
        )
        if conflict < 0:
            raise rules.already_committed(effect)
        if conflict:
            wrong = effect.writes[conflict - 1]
            rules.check_version(wrong.key, wrong.expect, version)

    async def committed(self, mark: Key, *, cause: str) -> Sequence[OutboxRow] | None:
        found = await self._pool.rows(_COMMITTED, mark, cause)
        return _outbox_rows(found[0][0]) if found else None

    # -- streams

    async def append(self, step: Append) -> int:
        rules.check_step(step)
        timers = {timer.id: timer for timer in step.timers}.values()  # of one id, the last
        conflict, version = await self._pool.row(
            "SELECT * FROM @.append($1, $2, $3::bytea[], $4, $5::bytea,"
            " $6::text[], $7::text[], $8::text[], $9::text[], $10::bool[], $11::bytea[],"
            " $12::text[], $13::text[], $14::bigint[], $15::bytea[], $16::text[], $17::text[], $18::bytea[])",
            step.stream,
            step.expected_version,
            step.records,
            step.handled,
            step.snapshot,
            *_columns_of_rows(step.outbox),
            step.answered,
            [timer.id for timer in timers],
            [timer.due_ms for timer in timers],
            [timer.payload for timer in timers],
            step.canceled_timers,
            [row.key for row in step.index],
            [row.value for row in step.index],
        )
        if conflict:
            raise rules.stream_conflict(step, version, handled=conflict == 2)
        return int(version)

    async def load(self, stream: Key, *, handled: str = "") -> Loaded:
        found = await self._pool.rows(_LOAD, stream, handled)
        if not found:
            return Loaded(version=0, snapshot=None, records=())
        row = found[0]
        kept = row["kept_version"]
        return Loaded(
            version=row["version"],
            snapshot=None if kept is None else Snapshot(kept, row["kept_value"]),
            records=tuple(Record(*record) for record in row["records"] or ()),
            handled=row["handled"],
            unanswered=_outbox_rows(row["unanswered"]),
        )

    async def read(self, stream: Key, *, after: int = 0, limit: int = 1000) -> Sequence[Record]:
        rules.check_limit(limit)
        rows = await self._pool.rows(
            "SELECT version, value, at_ms FROM @.state_records WHERE stream ="
            " (SELECT id FROM @.state_streams WHERE key = $1) AND version > $2 ORDER BY version LIMIT $3",
            stream,
            after,
            limit,
        )
        return tuple(Record(*row) for row in rows)

    # -- outbox

    async def mark_sent(self, ids: Sequence[str]) -> None:
        if ids:
            await self._pool.rows("SELECT @.mark_sent($1::text[])", list(ids))

    async def claim_outbox(self, *, owner: str, idle: float, claim: float, limit: int) -> Sequence[OutboxRow]:
        rules.check_limit(limit)
        idle_ms = rules.instant(0, idle)
        rows = await self._pool.rows(
            f"SELECT {_ROW} FROM @.claim_outbox($1, $2, $3, $4, $5::int) ORDER BY place",  # noqa: S608 - our own names
            owner,
            idle_ms,
            rules.instant(0, claim),
            rules.longest_wait_ms(idle_ms),
            limit,
        )
        return _outbox_rows(rows)

    # -- timers

    async def due(self, *, before_ms: int, limit: int) -> Sequence[Timer]:
        rules.check_limit(limit)
        rows = await self._pool.rows(
            "SELECT id, due_ms, payload FROM @.state_timers WHERE due_ms <= $1 ORDER BY due_ms, id LIMIT $2",
            before_ms,
            limit,
        )
        return tuple(Timer(*row) for row in rows)

    async def drop_timers(self, timers: Sequence[Timer]) -> None:
        if timers:
            await self._pool.rows(
                "SELECT @.drop_timers($1::text[], $2::bigint[])",
                [timer.id for timer in timers],
                [timer.due_ms for timer in timers],
            )

    # -- leases

    async def acquire_lease(self, name: Key, *, owner: str, ttl: float) -> Lease | None:
        token, until_ms = await self._pool.row(
            "SELECT * FROM @.acquire_lease($1, $2, $3)", name, owner, rules.instant(0, ttl)
        )
        return None if token is None else Lease(name, owner, token, until_ms)

    async def release_lease(self, lease: Lease) -> None:
        await self._pool.rows("SELECT @.release_lease($1, $2)", lease.name, lease.token)

    # -- amounts

    async def reserve(self, key: Key, amount: float, *, limit: float, id: str, ttl: float) -> Reservation:
        rules.check_amount(amount, "a reservation")
        granted, taken = await self._pool.row(
            "SELECT * FROM @.reserve($1, $2, $3, $4, $5)", key, amount, limit, id, rules.instant(0, ttl)
        )
        return Reservation(granted, taken, limit)

    async def settle(self, id: str, actual: float) -> bool:
        rules.check_amount(actual, "the use")
        (known,) = await self._pool.row("SELECT @.settle($1, $2)", id, actual)
        return bool(known)

    async def drop_amounts(self, keys: Sequence[Key]) -> int:
        return await postgres_whole.drop_amounts(self._pool, keys)

    # -- whole

    async def census(self) -> Census:
        return await postgres_whole.census(self._pool)

    async def dump(self, kind: ItemKind, *, after: str | None = None, limit: int = 100) -> Dump:
        rules.check_limit(limit)
        return await postgres_whole.dump(self._pool, kind, after=after, limit=limit)

    async def restore(self, items: Sequence[Item]) -> None:
        if kind := rules.check_items(items):
            await postgres_whole.restore(self._pool, kind, items)

    async def erase(self, under: Prefix) -> Mapping[ItemKind, int]:
        return await postgres_whole.erase(self._pool, under)

    async def drop_rows(self, ids: Sequence[str]) -> int:
        return await postgres_whole.drop_rows(self._pool, ids)


def _columns_of(writes: Sequence[Write]) -> tuple[object, ...]:
    return (
        [write.key for write in writes],
        [write.value for write in writes],
        [None if write.expect is ANY else write.expect for write in writes],
        [None if write.ttl is None else rules.instant(0, write.ttl) for write in writes],
    )


def _columns_of_rows(rows: Sequence[OutboxRow]) -> tuple[object, ...]:
    last: dict[str, OutboxRow] = {}
    for row in rows:  # of one id, the last, at its own place
        last.pop(row.id, None)
        last[row.id] = row
    kept = last.values()
    return (
        [row.id for row in kept],
        [row.cause for row in kept],
        [row.door for row in kept],
        [row.address for row in kept],
        [row.awaits_answer for row in kept],
        [row.message for row in kept],
    )


def _outbox_rows(rows: Sequence[Any] | None) -> tuple[OutboxRow, ...]:
    return tuple(
        OutboxRow(id=row[0], cause=row[1], message=row[2], door=row[3], address=row[4], awaits_answer=row[5])
        for row in rows or ()
    )
