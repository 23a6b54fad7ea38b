"""Streams, commits, outbox and timers in SQLite: plain functions of a connection inside a transaction.

A row of the outbox belongs to a stream (its id, from 1) or to a commit (the version of its mark, negative).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from rockbot.state import rules
from rockbot.state.keys import Key
from rockbot.state.ports import Append, Commit, Loaded, OutboxRow, Record, Snapshot, Timer
from rockbot.state.sqlite_values import remove, version_of, write, write_all

__all__ = ["append", "claim_outbox", "commit", "committed", "drop_timers", "due", "load", "mark_sent", "read"]

_ROW = "id, cause, message, door, address, awaits_answer"


# -- streams


def append(at: sqlite3.Connection, step: Append, now_ms: int) -> int:
    stream, version = _find(at, step.stream)
    handled = stream is not None and _was_handled(at, stream, step.handled)
    if handled or version != step.expected_version:
        raise rules.stream_conflict(step, version, handled=handled)
    first, version = version + 1, version + len(step.records)
    if stream is None:
        stream = at.execute("INSERT INTO state_streams (key, version) VALUES (?, ?)", (step.stream, version)).lastrowid
    else:
        at.execute("UPDATE state_streams SET version = ? WHERE id = ?", (version, stream))
    at.execute("INSERT INTO state_handled (stream, message) VALUES (?, ?)", (stream, step.handled))
    at.executemany(
        "INSERT INTO state_records (stream, version, at_ms, value) VALUES (?, ?, ?, ?)",
        [(stream, number, now_ms, value) for number, value in enumerate(step.records, first)],
    )
    if step.snapshot is not None:
        at.execute(
            "INSERT INTO state_snapshots (stream, version, value) VALUES (?, ?, ?)"
            " ON CONFLICT (stream) DO UPDATE SET version = excluded.version, value = excluded.value",
            (stream, version, step.snapshot),
        )
    # What is closed goes first: a step may close a row or cancel a timer and set it anew.
    at.executemany("DELETE FROM state_outbox WHERE id = ?", [(row,) for row in step.answered])
    _add_rows(at, stream, step.outbox, now_ms)
    at.executemany("DELETE FROM state_timers WHERE id = ?", [(timer,) for timer in step.canceled_timers])
    at.executemany(
        "INSERT INTO state_timers (id, due_ms, payload) VALUES (?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET due_ms = excluded.due_ms, payload = excluded.payload",
        [(timer.id, timer.due_ms, timer.payload) for timer in step.timers],
    )
    for index in step.index:
        if index.value is None:
            remove(at, index.key)
        else:
            write(at, index.key, index.value, expires_ms=None, now_ms=now_ms)
    return version


def load(at: sqlite3.Connection, key: Key, handled: str) -> Loaded:
    stream, version = _find(at, key)
    if stream is None:
        return Loaded(version=0, snapshot=None, records=())
    row = at.execute("SELECT version, value FROM state_snapshots WHERE stream = ?", (stream,)).fetchone()
    snapshot = Snapshot(row[0], row[1]) if row else None
    return Loaded(
        version=version,
        snapshot=snapshot,
        records=_records(at, stream, after=snapshot.version if snapshot else 0, limit=-1),
        handled=_was_handled(at, stream, handled),
        unanswered=_rows_of(at, stream, handled) if handled else (),
    )


def read(at: sqlite3.Connection, key: Key, *, after: int, limit: int) -> Sequence[Record]:
    stream, _ = _find(at, key)
    return () if stream is None else _records(at, stream, after=after, limit=limit)


def commit(at: sqlite3.Connection, effect: Commit, now_ms: int) -> None:
    if version_of(at, effect.mark, now_ms):
        raise rules.already_committed(effect)
    until_ms = rules.instant(now_ms, effect.remember)
    mark = write(at, effect.mark, effect.cause.encode(), expires_ms=until_ms, now_ms=now_ms)
    write_all(at, effect.writes, now_ms)
    _add_rows(at, -mark, effect.outbox, now_ms)


def committed(at: sqlite3.Connection, mark: Key, cause: str, now_ms: int) -> Sequence[OutboxRow] | None:
    version = version_of(at, mark, now_ms)
    return _rows_of(at, -version, cause) if version else None


def _find(at: sqlite3.Connection, key: Key) -> tuple[int | None, int]:
    row = at.execute("SELECT id, version FROM state_streams WHERE key = ?", (key,)).fetchone()
    return (row[0], row[1]) if row else (None, 0)


def _was_handled(at: sqlite3.Connection, stream: int, message: str) -> bool:
    found = at.execute("SELECT 1 FROM state_handled WHERE stream = ? AND message = ?", (stream, message))
    return found.fetchone() is not None


def _records(at: sqlite3.Connection, stream: int, *, after: int, limit: int) -> tuple[Record, ...]:
    rows = at.execute(
        "SELECT version, value, at_ms FROM state_records WHERE stream = ? AND version > ? ORDER BY version LIMIT ?",
        (stream, after, limit),
    )
    return tuple(Record(*row) for row in rows)


def _add_rows(at: sqlite3.Connection, stream: int | None, rows: Sequence[OutboxRow], now_ms: int) -> None:
    at.executemany(
        f"INSERT OR REPLACE INTO state_outbox (stream, sends, touched_ms, claimed_until_ms, claimed_by, {_ROW})"  # noqa: S608 - our own names
        " VALUES (?, 0, ?, 0, '', ?, ?, ?, ?, ?, ?)",
        [(stream, now_ms, row.id, row.cause, row.message, row.door, row.address, row.awaits_answer) for row in rows],
    )


def _rows_of(at: sqlite3.Connection, stream: int, cause: str) -> tuple[OutboxRow, ...]:
    rows = at.execute(f"SELECT {_ROW} FROM state_outbox WHERE stream = ? AND cause = ? ORDER BY seq", (stream, cause))  # noqa: S608 - our own names
    return tuple(_outbox_row(row) for row in rows)


def _outbox_row(row: tuple[Any, ...]) -> OutboxRow:
    return OutboxRow(id=row[0], cause=row[1], message=row[2], door=row[3], address=row[4], awaits_answer=bool(row[5]))


# -- outbox


def mark_sent(at: sqlite3.Connection, ids: Sequence[str], now_ms: int) -> None:
    at.executemany("DELETE FROM state_outbox WHERE id = ? AND awaits_answer = 0", [(sent,) for sent in ids])
    at.executemany(
        "UPDATE state_outbox SET sends = sends + 1, touched_ms = ?, claimed_until_ms = 0 WHERE id = ?",
        [(now_ms, sent) for sent in ids],
    )


def claim_outbox(
    at: sqlite3.Connection, *, owner: str, idle: float, claim: float, limit: int, now_ms: int
) -> Sequence[OutboxRow]:
    idle_ms = rules.instant(0, idle)
    rows = at.execute(
        f"SELECT seq, {_ROW} FROM state_outbox"  # noqa: S608 - our own names
        " WHERE touched_ms <= ? AND claimed_until_ms <= ?"
        " AND touched_ms + min(?, ? << min(max(sends - 1, 0), 20)) <= ? ORDER BY seq LIMIT ?",
        (now_ms - idle_ms, now_ms, rules.longest_wait_ms(idle_ms), idle_ms, now_ms, limit),
    ).fetchall()
    at.executemany(
        "UPDATE state_outbox SET touched_ms = ?, claimed_until_ms = ?, claimed_by = ? WHERE seq = ?",
        [(now_ms, rules.instant(now_ms, claim), owner, row[0]) for row in rows],
    )
    return tuple(_outbox_row(row[1:]) for row in rows)


# -- timers


def due(at: sqlite3.Connection, before_ms: int, limit: int) -> Sequence[Timer]:
    rows = at.execute(
        "SELECT id, due_ms, payload FROM state_timers WHERE due_ms <= ? ORDER BY due_ms, id LIMIT ?", (before_ms, limit)
    )
    return tuple(Timer(*row) for row in rows)


def drop_timers(at: sqlite3.Connection, timers: Sequence[Timer]) -> None:
    at.executemany("DELETE FROM state_timers WHERE id = ? AND due_ms = ?", [(t.id, t.due_ms) for t in timers])
