"""The tables of the SQLite store and the way from every older form of them to the newest.

All names begin with `state_`, because the embedded message bus keeps its own tables in the same file. A migration is
never edited after a release; a change is one more entry at the end. Only what SQLite 3.34 knows is used.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from rockbot.state.ports import StateUnavailable

__all__ = ["MIGRATIONS", "migrate"]

_FIRST: Final = (
    # One counter for versions and fencing tokens: they grow over deletion and expiry without tombstones.
    "CREATE TABLE state_counter (one INTEGER PRIMARY KEY CHECK (one = 1), value INTEGER NOT NULL)",
    "INSERT INTO state_counter VALUES (1, 0)",
    """CREATE TABLE state_values (
        key TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, expires_ms INTEGER, value BLOB NOT NULL)""",
    "CREATE INDEX state_values_expiry ON state_values (expires_ms) WHERE expires_ms IS NOT NULL",
    "CREATE TABLE state_streams (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, version INTEGER NOT NULL)",
    """CREATE TABLE state_records (
        stream INTEGER NOT NULL, version INTEGER NOT NULL, at_ms INTEGER NOT NULL, value BLOB NOT NULL,
        UNIQUE (stream, version))""",
    "CREATE TABLE state_snapshots (stream INTEGER PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL)",
    """CREATE TABLE state_handled (
        stream INTEGER NOT NULL, message TEXT NOT NULL, PRIMARY KEY (stream, message)) WITHOUT ROWID""",
    """CREATE TABLE state_outbox (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, stream INTEGER NOT NULL, cause TEXT NOT NULL,
        door TEXT NOT NULL, address TEXT NOT NULL, awaits_answer INTEGER NOT NULL, sends INTEGER NOT NULL,
        touched_ms INTEGER NOT NULL, claimed_until_ms INTEGER NOT NULL, claimed_by TEXT NOT NULL,
        message BLOB NOT NULL)""",
    "CREATE INDEX state_outbox_cause ON state_outbox (stream, cause)",
    "CREATE INDEX state_outbox_touched ON state_outbox (touched_ms)",
    "CREATE TABLE state_timers (id TEXT NOT NULL PRIMARY KEY, due_ms INTEGER NOT NULL, payload BLOB NOT NULL)",
    "CREATE INDEX state_timers_due ON state_timers (due_ms, id)",
    """CREATE TABLE state_leases (
        name TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, token INTEGER NOT NULL, until_ms INTEGER NOT NULL)""",
    "CREATE INDEX state_leases_until ON state_leases (until_ms)",
    "CREATE TABLE state_amounts (key TEXT NOT NULL PRIMARY KEY, settled REAL NOT NULL)",
    """CREATE TABLE state_reservations (
        id TEXT NOT NULL PRIMARY KEY, key TEXT NOT NULL, amount REAL NOT NULL, until_ms INTEGER NOT NULL,
        settled INTEGER NOT NULL)""",
    "CREATE INDEX state_reservations_open ON state_reservations (key, until_ms) WHERE settled = 0",
    "CREATE INDEX state_reservations_until ON state_reservations (until_ms)",
)

#: The statements that lead to each schema version, from 1; what this release writes is the last.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_FIRST,)


def migrate(connection: sqlite3.Connection, path: str, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> None:
    """Bring the tables up to date in one transaction; does nothing when they are.

    Raises:
        StateUnavailable: a newer release wrote this file.
    """
    newest = len(migrations)
    if _version(connection) == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS state_schema (version INTEGER NOT NULL)")
        # Read again under the write lock: another process may have been faster.
        version = _version(connection)
        if version > newest:
            raise StateUnavailable(
                f"state file {path} has schema version {version}, and this release knows {newest}: "
                "a newer release wrote it; run that one, or give this one another file"
            )
        for migration in migrations[version:]:
            for statement in migration:
                connection.execute(statement)
        connection.execute("DELETE FROM state_schema")
        connection.execute("INSERT INTO state_schema VALUES (?)", (newest,))
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection) -> int:
    exists = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'state_schema'").fetchone()
    found = connection.execute("SELECT version FROM state_schema").fetchone() if exists else None
    return int(found[0]) if found else 0
