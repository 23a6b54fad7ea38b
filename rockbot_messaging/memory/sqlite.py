"""Rows in a SQLite file, which may be the one that holds the host's state.

Changes that arrive while a transaction is being committed go into the next one together, so that many waiting publishers
share one flush to disk. All SQLite work is done by one thread of its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final, NamedTuple, final

from rockbot_messaging.errors import BrokerUnreachable, Closed, NotConfirmed
from rockbot_messaging.memory.storage import Place, Row

__all__ = ["SqliteBusStorage"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS bus_messages (
    number   INTEGER PRIMARY KEY,
    queue    TEXT NOT NULL,
    place    TEXT NOT NULL,
    due_ms   INTEGER,
    envelope BLOB NOT NULL,
    failure  TEXT,
    problem  TEXT NOT NULL
) STRICT
"""
_PUT: Final = "INSERT OR REPLACE INTO bus_messages VALUES (?, ?, ?, ?, ?, ?, ?)"
_REMOVE: Final = "DELETE FROM bus_messages WHERE number = ?"
_LOAD: Final = "SELECT number, queue, place, due_ms, envelope, failure, problem FROM bus_messages ORDER BY number"


class _Change(NamedTuple):
    puts: Sequence[Row]
    removals: Sequence[int]
    done: asyncio.Future[None]


#: Seconds between two attempts to begin a transaction while another connection writes; they grow from the one to the other.
_FIRST_PAUSE: Final = 0.0002
_LONGEST_PAUSE: Final = 0.002


@final
class SqliteBusStorage:
    """Implements `BusStorage` on a file, with ``synchronous=FULL``: what is confirmed survives loss of power.

    A lock file beside it keeps a second process from working the same queues; it is let go of with the process, however
    that ends.

    Args:
        path: the file; its folder exists.
        busy_seconds: how long a transaction of another user of the file (the state store) is waited for.
    """

    def __init__(self, path: str | Path, *, busy_seconds: float = 10.0) -> None:
        self._path = Path(path)
        self._busy_seconds = busy_seconds
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._lock: IO[bytes] | None = None
        self._waiting: list[_Change] = []
        self._writer: asyncio.Task[None] | None = None

    async def open(self) -> list[Row]:
        """See `BusStorage.open`."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bus-sqlite")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        except (sqlite3.Error, OSError) as exc:
            await self.close()
            raise BrokerUnreachable(f"the queues in {self._path} cannot be opened: {exc}") from exc
        except BrokerUnreachable:
            await self.close()
            raise

    def apply(self, puts: Sequence[Row], removals: Sequence[int]) -> asyncio.Future[None]:
        """See `BusStorage.apply`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if self._thread is None:
            done.set_exception(Closed(f"the queues in {self._path} are closed"))
            return done
        self._waiting.append(_Change(puts, removals, done))
        if self._writer is None:
            self._writer = loop.create_task(self._write())
        return done

    async def close(self) -> None:
        """See `BusStorage.close`."""
        while self._writer is not None:
            await asyncio.wait([self._writer])
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                problems: Sequence[Exception | None]
                try:
                    problems = await loop.run_in_executor(self._thread, self._commit, batch)
                except Exception as exc:
                    # Whatever it is (a rollback that fails too), nobody may wait for this batch for ever.
                    problems = [exc] * len(batch)
                for change, problem in zip(batch, problems, strict=True):
                    if change.done.done():
                        continue
                    if problem is None:
                        change.done.set_result(None)
                    else:
                        text = f"a message could not be written to {self._path}: {problem}"
                        change.done.set_exception(NotConfirmed(text))
        finally:
            self._writer = None

    def _open(self) -> list[Row]:
        self._lock = self._path.with_name(f"{self._path.name}.bus-lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BrokerUnreachable(
                f"the queues in {self._path} are in use by another process: stop it, or use another state file"
            ) from None
        connection = sqlite3.connect(
            self._path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False, cached_statements=8
        )
        self._connection = connection
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(_SCHEMA)
        connection.execute("PRAGMA busy_timeout=0")  # `_begin` waits in its stead
        return [
            Row(
                number=number,
                queue=queue,
                place=Place(place),
                due_ms=due_ms,
                envelope=envelope,
                failure=failure,
                problem=problem,
            )
            for number, queue, place, due_ms, envelope, failure, problem in connection.execute(_LOAD)
        ]

    def _commit(self, batch: Sequence[_Change]) -> list[Exception | None]:
        """Write a batch in one transaction; if that fails, each change in one of its own, to spare the innocent."""
        problem = self._transaction(batch)
        if problem is None:
            return [None] * len(batch)
        if len(batch) == 1:
            return [problem]
        return [self._transaction([change]) for change in batch]

    def _transaction(self, batch: Sequence[_Change]) -> Exception | None:
        connection = self._connection
        if connection is None:
            return sqlite3.ProgrammingError("the file is closed")
        try:
            self._begin(connection)
            connection.executemany(_PUT, [_values(row) for change in batch for row in change.puts])
            connection.executemany(_REMOVE, [(number,) for change in batch for number in change.removals])
            connection.execute("COMMIT")
        except Exception as exc:  # also what the driver says of a value that no column holds
            return exc
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return None

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Begin to write, asking often: SQLite's own waiting doubles its pauses up to 100 ms and starves beside a store."""
        until = time.monotonic() + self._busy_seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _values(row: Row) -> tuple[object, ...]:
    return (row.number, row.queue, row.place.value, row.due_ms, row.envelope, row.failure, row.problem)
