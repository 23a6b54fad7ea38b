"""A PostgreSQL store as a whole: counting, taking apart, restoring and erasing it, a batch in each transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

from rockbot.state import rules
from rockbot.state.items import DUMP_BYTES, Census, Dump, ItemKind
from rockbot.state.keys import Key, Prefix
from rockbot.state.postgres_pool import PostgresPool
from rockbot.state.sql_items import COUNTED, page_of, query_of

__all__ = ["census", "drop_amounts", "drop_rows", "dump", "erase", "restore"]

#: Streams, and values, that one transaction removes at most.
_ERASED: Final = 64
_NUMBER: Final = "(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM @state_numbers)"
#: A statement that writes, made one that is on disk when it returns.
_DURABLE: Final = "(SELECT @.begin_write('{}'))"
#: The order of what `erase_streams` returns.
_ERASED_KINDS: Final[tuple[ItemKind, ...]] = ("stream", "record", "handled", "snapshot", "row")
_OTHERS: Final[Mapping[ItemKind, str]] = {"timer": "id", "amount": "key", "reservation": "key"}
_CENSUS: Final = """SELECT
    current_setting('server_version') AS server, (SELECT max(version) FROM @.state_schema) AS schema,
    current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
    (SELECT count(*) FROM @.state_values WHERE expires_ms <= now.ms)
        + (SELECT count(*) FROM @.state_leases WHERE until_ms <= now.ms) AS over,
    (SELECT count(*) FROM @.state_outbox WHERE claimed_until_ms > 0 AND claimed_until_ms <= now.ms) AS lost_claims,
    (SELECT count(*) FROM @.state_timers WHERE due_ms <= now.ms) AS due_timers,
    (SELECT min(due_ms) FROM @.state_timers WHERE due_ms <= now.ms) AS oldest_due_ms
    FROM (SELECT @.clock_ms() AS ms) AS now"""
_RESTORE: Final[Mapping[ItemKind, str]] = {
    "number": """SELECT setval('@.state_numbers', greatest(given.most, held.last_value)), DURABLE
        FROM (SELECT max(one) AS most FROM unnest($1::bigint[]) AS one) AS given, @.state_numbers AS held
        WHERE given.most > CASE WHEN held.is_called THEN held.last_value ELSE 0 END""",
    "value": """INSERT INTO @.state_values (key, value, version, expires_ms)
        SELECT item.* FROM unnest($1::text[], $2::bytea[], $3::bigint[], $4::bigint[]) AS item, DURABLE AS durable
        ON CONFLICT (key) DO UPDATE SET
        value = excluded.value, version = excluded.version, expires_ms = excluded.expires_ms""",
    "stream": """INSERT INTO @.state_streams (key, version)
        SELECT item.key, 0 FROM unnest($1::text[]) AS item (key), DURABLE AS durable ON CONFLICT DO NOTHING""",
    "record": """WITH item AS (
            SELECT held.id, given.* FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bigint[])
                AS given (stream, version, value, at_ms) JOIN @.state_streams AS held ON held.key = given.stream
        ), added AS (
            INSERT INTO @.state_records (stream, version, value, at_ms)
                SELECT id, version, value, at_ms FROM item ON CONFLICT DO NOTHING
        ) UPDATE @.state_streams AS held SET version = greatest(held.version, newest.version)
            FROM (SELECT id, max(version) AS version FROM item GROUP BY id) AS newest, DURABLE AS durable
            WHERE held.id = newest.id""",
    "handled": """INSERT INTO @.state_handled (stream, message)
        SELECT held.id, item.message FROM unnest($1::text[], $2::text[]) AS item (stream, message)
        JOIN @.state_streams AS held ON held.key = item.stream, DURABLE AS durable ON CONFLICT DO NOTHING""",
    "snapshot": """INSERT INTO @.state_snapshots (stream, version, value)
        SELECT held.id, item.version, item.value
        FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS item (stream, version, value)
        JOIN @.state_streams AS held ON held.key = item.stream, DURABLE AS durable
        ON CONFLICT (stream) DO UPDATE SET version = excluded.version, value = excluded.value""",
    "row": """WITH item AS (
            SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::bool[], $7::text[],
                $8::bigint[], $9::int[], $10::bigint[]) WITH ORDINALITY
                AS given (id, cause, message, door, address, awaits, stream, mark, sends, touched, place)
        ) INSERT INTO @.state_outbox (id, cause, message, door, address, awaits_answer, stream, sends, touched_ms,
            claimed_until_ms, claimed_by)
        SELECT item.id, item.cause, item.message, item.door, item.address, item.awaits,
            coalesce((SELECT held.id FROM @.state_streams AS held WHERE held.key = item.stream), -item.mark),
            item.sends, item.touched, 0, ''
        FROM item, DURABLE AS durable ORDER BY item.place""",
    "timer": """INSERT INTO @.state_timers (id, due_ms, payload)
        SELECT item.* FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS item, DURABLE AS durable
        ON CONFLICT (id) DO UPDATE SET due_ms = excluded.due_ms, payload = excluded.payload""",
    "amount": """INSERT INTO @.state_amounts (key, settled)
        SELECT item.* FROM unnest($1::text[], $2::float8[]) AS item, DURABLE AS durable
        ON CONFLICT (key) DO UPDATE SET settled = excluded.settled""",
    "reservation": """INSERT INTO @.state_reservations (id, key, amount, until_ms, settled)
        SELECT item.* FROM unnest($1::text[], $2::text[], $3::float8[], $4::bigint[], $5::bool[]) AS item,
            DURABLE AS durable
        ON CONFLICT (id) DO UPDATE SET
        key = excluded.key, amount = excluded.amount, until_ms = excluded.until_ms, settled = excluded.settled""",
}  # fmt: skip


async def census(pool: PostgresPool) -> Census:
    found = await pool.row(_CENSUS)
    counted = ", ".join(f"(SELECT count(*) FROM @.{table})" for table in COUNTED.values())  # noqa: S608 - our own names
    counts = await pool.row(f"SELECT {counted}")
    sizes = " + ".join(f"pg_total_relation_size('@.{table}'::regclass)" for table in COUNTED.values())
    return Census(
        server=f"PostgreSQL {found['server']}",
        schema=found["schema"],
        doubts=tuple(
            f"{name} is {found[name]}, not on" for name in ("fsync", "full_page_writes") if found[name] != "on"
        ),
        size=int((await pool.row(f"SELECT {sizes}"))[0]),
        counts=dict(zip(COUNTED, counts, strict=True)),
        over=found["over"],
        lost_claims=found["lost_claims"],
        due_timers=found["due_timers"],
        oldest_due_ms=found["oldest_due_ms"],
    )


async def dump(pool: PostgresPool, kind: ItemKind, *, after: str | None, limit: int) -> Dump:
    query, sql, parameters = query_of(kind, after, now="(SELECT @clock_ms())", number=_NUMBER)
    numbers = count(1)
    sql = "".join(f"${next(numbers)}" if sign == "?" else sign for sign in sql.replace("@", "@."))
    if query.content is None:
        return page_of(query, await pool.rows(sql, *parameters, limit + 1), limit)
    order = ", ".join(f"c{at}" for at in range(query.ordered))
    size = f"octet_length(c{query.content})"
    rows = await pool.rows(
        f"SELECT * FROM (SELECT *, sum({size}) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) - {size} AS before,"  # noqa: S608 - our own names
        f" count(*) OVER () AS there FROM ({sql}) AS page) AS sized WHERE before < {DUMP_BYTES} ORDER BY {order}",
        *parameters,
        limit + 1,
    )
    return page_of(query, rows, limit, more=bool(rows) and len(rows) < rows[0]["there"])


async def restore(pool: PostgresPool, kind: ItemKind, items: Sequence[Any]) -> None:
    columns: list[list[Any]]
    match kind:
        case "number":
            columns = [[item.value for item in items]]
        case "value":
            columns = _columns([(item.key, item.value, item.version, item.until_ms) for item in items])
        case "stream":
            columns = [[item.stream for item in items]]
            await pool.rows("SELECT * FROM @.erase_streams($1::text[])", *columns)
        case "record":
            told = [(item.stream, item.record.version, item.record.value, item.record.at_ms) for item in items]
            columns = _columns(told)
        case "handled":
            columns = _columns([(item.stream, item.message) for item in items])
        case "snapshot":
            columns = _columns([(item.stream, item.snapshot.version, item.snapshot.value) for item in items])
        case "row":
            columns = _columns([_row(item) for item in items])
            await drop_rows(pool, columns[0])  # so that they are in the order in which they are restored
        case "timer":
            columns = _columns([(item.timer.id, item.timer.due_ms, item.timer.payload) for item in items])
        case "amount":
            columns = _columns([(item.key, item.settled) for item in items])
        case "reservation":
            columns = _columns([(item.id, item.key, item.amount, item.until_ms, item.settled) for item in items])
    await pool.rows(_RESTORE[kind].replace("DURABLE", _DURABLE), *columns)


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _row(item: Any) -> tuple[Any, ...]:
    row = item.row
    told = (row.id, row.cause, row.message, row.door, row.address, row.awaits_answer)
    return (*told, item.stream, item.mark, item.sends, item.touched_ms)


async def erase(pool: PostgresPool, under: Prefix) -> Mapping[ItemKind, int]:
    gone: Counter[ItemKind] = Counter()
    mine = (under[:-1], under, rules.prefix_end(under))
    while names := await _names(pool, "state_streams", mine):
        counts = await pool.row("SELECT * FROM @.erase_streams($1::text[])", names)
        gone.update(dict(zip(_ERASED_KINDS, counts, strict=True)))
    while names := await _names(pool, "state_values", mine):
        values, rows = await pool.row("SELECT * FROM @.erase_values($1::text[])", names)
        gone.update({"value": values, "row": rows})
    for kind, column in _OTHERS.items():
        gone[kind] += await _delete(pool, COUNTED[kind], _mine(column), *mine)
    await _delete(pool, "state_leases", _mine("name"), *mine)
    return rules.counted(gone)


async def drop_rows(pool: PostgresPool, ids: Sequence[str]) -> int:
    return await _delete(pool, "state_outbox", "id = ANY ($1::text[])", list(ids)) if ids else 0


async def drop_amounts(pool: PostgresPool, keys: Sequence[Key]) -> int:
    return await _delete(pool, "state_amounts", "key = ANY ($1::text[])", list(keys)) if keys else 0


async def _names(pool: PostgresPool, table: str, mine: tuple[str, ...]) -> list[str]:
    rows = await pool.rows(f"SELECT key FROM @.{table} WHERE {_mine('key')} LIMIT {_ERASED}", *mine)  # noqa: S608 - our own names
    return [row[0] for row in rows]


async def _delete(pool: PostgresPool, table: str, where: str, *arguments: object) -> int:
    sql = f"WITH gone AS (DELETE FROM @.{table} WHERE {where} RETURNING 1) SELECT count(*), {_DURABLE} FROM gone"  # noqa: S608 - our own names
    return int((await pool.row(sql, *arguments))[0])


def _mine(column: str) -> str:
    return f"({column} = $1 OR ({column} >= $2 AND {column} < $3))"
