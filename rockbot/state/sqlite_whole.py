"""A SQLite store as a whole: plain functions of a connection inside a transaction."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rockbot.state import rules
from rockbot.state.data import Record
from rockbot.state.items import (
    DUMP_BYTES,
    AmountItem,
    Census,
    Dump,
    HandledItem,
    Item,
    ItemKind,
    NumberItem,
    RecordItem,
    ReservationItem,
    RowItem,
    SnapshotItem,
    StreamItem,
    TimerItem,
    ValueItem,
)
from rockbot.state.keys import Prefix
from rockbot.state.sql_items import COUNTED, page_of, query_of
from rockbot.state.sqlite_schema import MIGRATIONS

__all__ = ["census", "drop_rows", "dump", "erase_some", "restore"]

#: Streams, and values, that one transaction removes at most, so that it never keeps the write lock for long.
_ERASED: Final = 64
_OF_STREAM: Final[Mapping[ItemKind, str]] = {
    "record": "state_records",
    "handled": "state_handled",
    "snapshot": "state_snapshots",
    "row": "state_outbox",
}


def census(at: sqlite3.Connection, now_ms: int) -> Census:
    def one(sql: str, *parameters: object) -> Any:
        return at.execute(sql, parameters).fetchone()[0]

    synced = one("PRAGMA synchronous") >= 2
    return Census(
        server=f"SQLite {sqlite3.sqlite_version}",
        schema=len(MIGRATIONS),
        doubts=() if synced else ("synchronous is not FULL",),
        size=one("PRAGMA page_count") * one("PRAGMA page_size"),
        counts={kind: one(f"SELECT count(*) FROM {table}") for kind, table in COUNTED.items()},  # noqa: S608 - our own names
        over=one(
            "SELECT (SELECT count(*) FROM state_values WHERE expires_ms <= ?)"
            " + (SELECT count(*) FROM state_leases WHERE until_ms <= ?)",
            now_ms,
            now_ms,
        ),
        lost_claims=one(
            "SELECT count(*) FROM state_outbox WHERE claimed_until_ms > 0 AND claimed_until_ms <= ?", now_ms
        ),
        due_timers=one("SELECT count(*) FROM state_timers WHERE due_ms <= ?", now_ms),
        oldest_due_ms=one("SELECT min(due_ms) FROM state_timers WHERE due_ms <= ?", now_ms),
    )


def dump(at: sqlite3.Connection, kind: ItemKind, *, after: str | None, limit: int, now_ms: int) -> Dump:
    query, sql, parameters = query_of(kind, after, now=str(now_ms), number="(SELECT value FROM state_counter)")
    rows = at.execute(sql.replace("@", ""), (*parameters, limit + 1))
    return page_of(query, list(_within(rows, query.content)), limit)


def _within(rows: Iterator[tuple[Any, ...]], content: int | None) -> Iterator[tuple[Any, ...]]:
    """Rows until there are enough bytes of them, and one more."""
    size = 0
    for row in rows:
        yield row
        if size >= DUMP_BYTES:
            return
        size += 0 if content is None else len(row[content])


# -- restoring


def restore(at: sqlite3.Connection, items: Sequence[Item]) -> None:
    for item in items:
        match item:
            case NumberItem(value=number):
                at.execute("UPDATE state_counter SET value = max(value, ?)", (number,))
            case ValueItem():
                at.execute(
                    "INSERT OR REPLACE INTO state_values (key, version, expires_ms, value) VALUES (?, ?, ?, ?)",
                    (item.key, item.version, item.until_ms, item.value),
                )
            case StreamItem(stream=name):
                found = at.execute("SELECT id FROM state_streams WHERE key = ?", (name,)).fetchone()
                if found:
                    _remove_streams(at, [found[0]], Counter())
                at.execute("INSERT INTO state_streams (key, version) VALUES (?, 0)", (name,))
            case RecordItem(record=record):
                _restore_record(at, _stream(at, item.stream), record)
            case HandledItem(message=message):
                at.execute(
                    "INSERT OR IGNORE INTO state_handled (stream, message) VALUES (?, ?)",
                    (_stream(at, item.stream), message),
                )
            case SnapshotItem(snapshot=snapshot):
                at.execute(
                    "INSERT OR REPLACE INTO state_snapshots (stream, version, value) VALUES (?, ?, ?)",
                    (_stream(at, item.stream), snapshot.version, snapshot.value),
                )
            case RowItem():
                _restore_row(at, item)
            case TimerItem(timer=timer):
                at.execute(
                    "INSERT OR REPLACE INTO state_timers (id, due_ms, payload) VALUES (?, ?, ?)",
                    (timer.id, timer.due_ms, timer.payload),
                )
            case AmountItem():
                at.execute(
                    "INSERT OR REPLACE INTO state_amounts (key, settled) VALUES (?, ?)", (item.key, item.settled)
                )
            case ReservationItem():
                at.execute(
                    "INSERT OR REPLACE INTO state_reservations (id, key, amount, until_ms, settled)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (item.id, item.key, item.amount, item.until_ms, item.settled),
                )


def _stream(at: sqlite3.Connection, name: str) -> int:
    return int(at.execute("SELECT id FROM state_streams WHERE key = ?", (name,)).fetchone()[0])


def _restore_record(at: sqlite3.Connection, stream: int, record: Record) -> None:
    at.execute(
        "INSERT OR IGNORE INTO state_records (stream, version, at_ms, value) VALUES (?, ?, ?, ?)",
        (stream, record.version, record.at_ms, record.value),
    )
    at.execute("UPDATE state_streams SET version = max(version, ?) WHERE id = ?", (record.version, stream))


def _restore_row(at: sqlite3.Connection, item: RowItem) -> None:
    row = item.row
    at.execute(
        "INSERT OR REPLACE INTO state_outbox (stream, sends, touched_ms, claimed_until_ms, claimed_by,"
        " id, cause, message, door, address, awaits_answer) VALUES (?, ?, ?, 0, '', ?, ?, ?, ?, ?, ?)",
        (
            -item.mark if item.stream is None else _stream(at, item.stream),
            item.sends,
            item.touched_ms,
            row.id,
            row.cause,
            row.message,
            row.door,
            row.address,
            row.awaits_answer,
        ),
    )


# -- erasing


def erase_some(at: sqlite3.Connection, under: Prefix) -> Counter[ItemKind]:
    """Remove some of what is under a prefix; nothing when all of it is gone."""
    gone: Counter[ItemKind] = Counter()
    mine = (under[:-1], under, rules.prefix_end(under))
    streams = at.execute(f"SELECT id FROM state_streams WHERE {_mine('key')} LIMIT {_ERASED}", mine).fetchall()  # noqa: S608 - our own names
    _remove_streams(at, [row[0] for row in streams], gone)
    values = at.execute(f"SELECT key, version FROM state_values WHERE {_mine('key')} LIMIT {_ERASED}", mine).fetchall()  # noqa: S608 - our own names
    for key, version in values:
        gone["row"] += at.execute("DELETE FROM state_outbox WHERE stream = ?", (-version,)).rowcount
        gone["value"] += at.execute("DELETE FROM state_values WHERE key = ?", (key,)).rowcount
    gone["timer"] += at.execute(f"DELETE FROM state_timers WHERE {_mine('id')}", mine).rowcount  # noqa: S608 - our own names
    gone["amount"] += at.execute(f"DELETE FROM state_amounts WHERE {_mine('key')}", mine).rowcount  # noqa: S608 - our own names
    gone["reservation"] += at.execute(f"DELETE FROM state_reservations WHERE {_mine('key')}", mine).rowcount  # noqa: S608 - our own names
    at.execute(f"DELETE FROM state_leases WHERE {_mine('name')}", mine)  # noqa: S608 - our own names
    return gone


def drop_rows(at: sqlite3.Connection, ids: Sequence[str]) -> int:
    return sum(at.execute("DELETE FROM state_outbox WHERE id = ?", (row,)).rowcount for row in ids)


def _mine(column: str) -> str:
    return f"({column} = ? OR ({column} >= ? AND {column} < ?))"


def _remove_streams(at: sqlite3.Connection, ids: Sequence[int], gone: Counter[ItemKind]) -> None:
    for stream in ids:
        for kind, table in _OF_STREAM.items():
            gone[kind] += at.execute(f"DELETE FROM {table} WHERE stream = ?", (stream,)).rowcount  # noqa: S608 - our own names
        gone["stream"] += at.execute("DELETE FROM state_streams WHERE id = ?", (stream,)).rowcount
