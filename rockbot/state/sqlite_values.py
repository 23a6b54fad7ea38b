"""Values, leases and amounts in SQLite: plain functions of a connection inside a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from rockbot.state import rules
from rockbot.state.keys import Key, Prefix
from rockbot.state.ports import Entry, Lease, Page, Reservation, Write, _Any

__all__ = [
    "acquire_lease",
    "delete",
    "drop_amounts",
    "get",
    "page",
    "put",
    "release_lease",
    "remove",
    "reserve",
    "settle",
    "sweep",
    "version_of",
    "write",
    "write_all",
]

#: One write in so many sweeps.
_SWEEP_EVERY: Final = 256
#: Rows of a kind that one sweep removes at most, so that it never keeps the write lock for long.
_SWEEP_ROWS: Final = 512


def _next_number(at: sqlite3.Connection) -> int:
    at.execute("UPDATE state_counter SET value = value + 1")
    return int(at.execute("SELECT value FROM state_counter").fetchone()[0])


# -- values


def get(at: sqlite3.Connection, key: Key, now_ms: int) -> Entry | None:
    row = at.execute("SELECT value, version, expires_ms FROM state_values WHERE key = ?", (key,)).fetchone()
    return None if row is None or rules.is_over(row[2], now_ms) else Entry(key, row[0], row[1])


def put(at: sqlite3.Connection, key: Key, value: bytes, *, expect: int | _Any, ttl: float | None, now_ms: int) -> int:
    rules.check_version(key, expect, version_of(at, key, now_ms))
    return write(at, key, value, expires_ms=None if ttl is None else rules.instant(now_ms, ttl), now_ms=now_ms)


def write(at: sqlite3.Connection, key: Key, value: bytes, *, expires_ms: int | None, now_ms: int) -> int:
    version = _next_number(at)
    if version % _SWEEP_EVERY == 0:
        sweep(at, now_ms)
    at.execute(
        "INSERT INTO state_values (key, version, expires_ms, value) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
        " version = excluded.version, expires_ms = excluded.expires_ms, value = excluded.value",
        (key, version, expires_ms, value),
    )
    return version


def delete(at: sqlite3.Connection, key: Key, *, expect: int | _Any, now_ms: int) -> bool:
    version = version_of(at, key, now_ms)
    rules.check_version(key, expect, version)
    remove(at, key)
    return version > 0


def write_all(at: sqlite3.Connection, writes: Sequence[Write], now_ms: int) -> None:
    for each in writes:
        if each.value is None:
            delete(at, each.key, expect=each.expect, now_ms=now_ms)
        else:
            put(at, each.key, each.value, expect=each.expect, ttl=each.ttl, now_ms=now_ms)


def remove(at: sqlite3.Connection, key: Key) -> None:
    at.execute("DELETE FROM state_values WHERE key = ?", (key,))


def page(at: sqlite3.Connection, prefix: Prefix, *, after: str | None, limit: int, now_ms: int) -> Page:
    # One lower bound, not two: SQLite would begin each page at the prefix and step over all the pages before it.
    begin, bound = (prefix, ">=") if after is None or after < prefix else (after, ">")
    rows = at.execute(
        f"SELECT key, value, version FROM state_values WHERE key {bound} ? AND key < ?"  # noqa: S608 - our own sign
        " AND (expires_ms IS NULL OR expires_ms > ?) ORDER BY key LIMIT ?",
        (begin, rules.prefix_end(prefix), now_ms, limit + 1),
    ).fetchall()
    entries = tuple(Entry(Key(key), value, version) for key, value, version in rows[:limit])
    return Page(entries, entries[-1].key if len(rows) > limit else None)


def version_of(at: sqlite3.Connection, key: Key, now_ms: int) -> int:
    row = at.execute("SELECT version, expires_ms FROM state_values WHERE key = ?", (key,)).fetchone()
    return 0 if row is None or rules.is_over(row[1], now_ms) else int(row[0])


def sweep(at: sqlite3.Connection, now_ms: int) -> None:
    """Remove some of what is over: expired values and leases, and reservations nobody can ask about any more."""
    at.execute(
        "DELETE FROM state_values WHERE key IN"
        " (SELECT key FROM state_values WHERE expires_ms IS NOT NULL AND expires_ms <= ? LIMIT ?)",
        (now_ms, _SWEEP_ROWS),
    )
    at.execute(
        "DELETE FROM state_leases WHERE name IN (SELECT name FROM state_leases WHERE until_ms <= ? LIMIT ?)",
        (now_ms, _SWEEP_ROWS),
    )
    at.execute(
        "DELETE FROM state_reservations WHERE id IN (SELECT id FROM state_reservations WHERE until_ms <= ? LIMIT ?)",
        (now_ms - rules.REMEMBER_MS, _SWEEP_ROWS),
    )


# -- leases


def acquire_lease(at: sqlite3.Connection, name: Key, *, owner: str, ttl: float, now_ms: int) -> Lease | None:
    row = at.execute("SELECT owner, token, until_ms FROM state_leases WHERE name = ?", (name,)).fetchone()
    if row is not None and not rules.is_over(row[2], now_ms):
        if row[0] != owner:
            return None
        token = int(row[1])
    else:
        token = _next_number(at)
    until_ms = rules.instant(now_ms, ttl)
    at.execute(
        "INSERT INTO state_leases (name, owner, token, until_ms) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
        " owner = excluded.owner, token = excluded.token, until_ms = excluded.until_ms",
        (name, owner, token, until_ms),
    )
    return Lease(name, owner, token, until_ms)


def release_lease(at: sqlite3.Connection, lease: Lease) -> None:
    at.execute("DELETE FROM state_leases WHERE name = ? AND token = ?", (lease.name, lease.token))


# -- amounts


def reserve(
    at: sqlite3.Connection, key: Key, amount: float, *, limit: float, id: str, ttl: float, now_ms: int
) -> Reservation:
    until_ms = rules.instant(now_ms, ttl)
    (settled,) = at.execute("SELECT coalesce(sum(settled), 0.0) FROM state_amounts WHERE key = ?", (key,)).fetchone()
    (pending,) = at.execute(
        "SELECT coalesce(sum(amount), 0.0) FROM state_reservations WHERE key = ? AND settled = 0 AND until_ms > ?",
        (key, now_ms),
    ).fetchone()
    taken = float(settled + pending)
    row = at.execute("SELECT settled, until_ms FROM state_reservations WHERE id = ?", (id,)).fetchone()
    if row is not None and (row[0] or not rules.is_over(row[1], now_ms)):
        at.execute("UPDATE state_reservations SET until_ms = max(until_ms, ?) WHERE id = ?", (until_ms, id))
        return Reservation(True, taken, limit)
    if rules.exceeds(taken, amount, limit):
        return Reservation(False, taken, limit)
    at.execute(
        "INSERT INTO state_reservations (id, key, amount, until_ms, settled) VALUES (?, ?, ?, ?, 0) ON CONFLICT (id) DO"
        " UPDATE SET key = excluded.key, amount = excluded.amount, until_ms = excluded.until_ms, settled = 0",
        (id, key, amount, until_ms),
    )
    return Reservation(True, taken + amount, limit)


def settle(at: sqlite3.Connection, id: str, actual: float, now_ms: int) -> bool:
    row = at.execute("SELECT key, settled FROM state_reservations WHERE id = ?", (id,)).fetchone()
    if row is None or row[1]:
        return row is not None
    if actual == 0:
        at.execute("DELETE FROM state_reservations WHERE id = ?", (id,))
        return True
    at.execute("UPDATE state_reservations SET settled = 1, until_ms = max(until_ms, ?) WHERE id = ?", (now_ms, id))
    at.execute(
        "INSERT INTO state_amounts (key, settled) VALUES (?, ?)"
        " ON CONFLICT (key) DO UPDATE SET settled = settled + excluded.settled",
        (row[0], actual),
    )
    return True


def drop_amounts(at: sqlite3.Connection, keys: Sequence[Key]) -> int:
    return sum(at.execute("DELETE FROM state_amounts WHERE key = ?", (key,)).rowcount for key in keys)
