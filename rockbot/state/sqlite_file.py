"""One connection to a SQLite file, on a thread of its own, with group commit.

Blocking calls never run on the event loop: work is handed over in batches, and a batch is one transaction with one sync
of the disk. While a batch is being written the next one gathers, so a busy store pays for the disk once per batch and an
idle one does not wait. Work that fails is undone alone (savepoint); nothing is reported done before the commit. Work may
run again from its start when the file was locked, so it does nothing but use its connection.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, final

from rockbot.state.ports import StateUnavailable
from rockbot.state.rules import not_open
from rockbot.state.sqlite_schema import migrate

__all__ = ["SqliteFile"]

T = TypeVar("T")

#: Transactions stay short, because the embedded message bus writes to the same file.
_LARGEST_BATCH: Final = 64
#: While opening, waiting is done in small tries on the event loop.
_OPEN_TRY_SECONDS: Final = 0.05
#: How long to pause before asking again for a lock that another connection has. SQLite's own waiting grows to a tenth of
#: a second per pause, and a busy neighbour then keeps this connection out for seconds.
_SHORTEST_PAUSE: Final = 0.0002
_LONGEST_PAUSE: Final = 0.002

_ADVICE: Final = {
    "SQLITE_BUSY": "another process keeps it locked; end that process, or give it another file",
    "SQLITE_LOCKED": "another process keeps it locked; end that process, or give it another file",
    "SQLITE_READONLY": "it cannot be written; check the permissions of the file and its folder",
    "SQLITE_PERM": "it cannot be written; check the permissions of the file and its folder",
    "SQLITE_FULL": "the disk is full; free some space",
    "SQLITE_IOERR": "the disk failed to read or write; check the disk and the space left on it",
    "SQLITE_CANTOPEN": "it cannot be opened; check that its folder exists and may be written",
    "SQLITE_NOTADB": "it is not a SQLite database; give another path",
    "SQLITE_CORRUPT": "it is damaged; restore a copy",
}


@final
@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    write: bool
    done: asyncio.Future[Any]


@final
class SqliteFile:
    """A file that transactions can be run on, from one event loop.

    `busy_seconds` is how long a transaction waits for another connection's write lock before `StateUnavailable`.
    """

    def __init__(self, path: Path, *, busy_seconds: float = 5.0) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._open_tries = 1 + round(busy_seconds / (2 * _OPEN_TRY_SECONDS))
        self._executor: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._waiting: deque[_Job] = deque()
        self._running: asyncio.Future[Any] | None = None

    async def open(self) -> None:
        """Open or create the file (folder 0700, file 0600) and migrate it; does nothing when it is open.

        Raises:
            StateUnavailable: it cannot be used; the text says why and what to check.
        """
        if self._executor is not None:
            return
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rockbot-state")
        loop = asyncio.get_running_loop()
        try:
            for left in reversed(range(self._open_tries)):
                try:
                    self._connection = await loop.run_in_executor(executor, self._connect)
                    break
                except sqlite3.Error as exc:
                    # Switching a new file to WAL needs it for a moment alone, and SQLite does not wait for that itself.
                    if not left or not _is_busy(exc):
                        raise self._explain(exc) from exc
                await asyncio.sleep(_OPEN_TRY_SECONDS)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        self._executor = executor

    async def close(self) -> None:
        """Finish the work that was handed over, then close; idempotent."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        while self._running is not None:
            await asyncio.wait([self._running])
            await asyncio.sleep(0)  # lets the finished batch start the next one
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.get_running_loop().run_in_executor(executor, connection.close)
        executor.shutdown(wait=False)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction that sees one state of the file."""
        return await self._run(work, write=False)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction and return when it is on disk; what it raises undoes what it did.

        Raises:
            StateUnavailable: the file cannot be written.
        """
        return await self._run(work, write=True)

    async def _run(self, work: Callable[[sqlite3.Connection], T], *, write: bool) -> T:
        if self._executor is None:
            raise not_open(f"sqlite:///{self._path}")
        job = _Job(work, write, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._running is None:
            self._start(self._executor)
        result: T = await job.done
        return result

    def _start(self, executor: ThreadPoolExecutor) -> None:
        batch: list[_Job] = []
        while self._waiting and len(batch) < _LARGEST_BATCH:
            job = self._waiting.popleft()
            if not job.done.done():  # its caller was cancelled
                batch.append(job)
        if not batch:
            self._running = None
            return

        def finished(running: asyncio.Future[Sequence[tuple[Any, Exception | None]]]) -> None:
            self._settle(batch, running)
            self._start(executor)

        self._running = asyncio.get_running_loop().run_in_executor(executor, self._transact, batch)
        self._running.add_done_callback(finished)

    def _settle(self, batch: list[_Job], running: asyncio.Future[Sequence[tuple[Any, Exception | None]]]) -> None:
        if running.cancelled():
            for job in batch:
                job.done.cancel()
            return
        failure = running.exception()
        outcomes = [(None, failure)] * len(batch) if failure else running.result()
        for job, (result, error) in zip(batch, outcomes, strict=True):
            if job.done.done():
                continue
            if error is None:
                job.done.set_result(result)
            else:
                job.done.set_exception(error)

    # -- on the thread

    def _connect(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as exc:
            raise StateUnavailable(
                f"state file {self._path} cannot be opened for writing: {exc.strerror}; check the path and its permissions"
            ) from exc
        connection = sqlite3.connect(self._path, timeout=_OPEN_TRY_SECONDS, isolation_level=None, cached_statements=256)
        try:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            if mode != "wal":
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StateUnavailable(
                    f"state file {self._path} cannot use a write-ahead log (its mode is {mode}); put it on a local disk"
                )
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            migrate(connection, str(self._path))
            connection.execute("PRAGMA busy_timeout = 0")  # from here on `_transact` waits
        except BaseException:
            connection.close()
            raise
        return connection

    def _transact(self, batch: list[_Job]) -> Sequence[tuple[Any, Exception | None]]:
        connection = self._connection
        if connection is None:
            raise not_open(f"sqlite:///{self._path}")
        waited = 0.0
        pause = _SHORTEST_PAUSE
        while True:
            try:
                return self._try(connection, batch)
            except sqlite3.Error as exc:
                if not _is_busy(exc) or waited >= self._busy_seconds:
                    return [(None, self._explain(exc)) for _ in batch]
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            time.sleep(pause)
            waited += pause
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _try(self, connection: sqlite3.Connection, batch: list[_Job]) -> Sequence[tuple[Any, Exception | None]]:
        connection.execute("BEGIN IMMEDIATE" if any(job.write for job in batch) else "BEGIN")
        outcomes = [self._attempt(connection, job) for job in batch]
        connection.execute("COMMIT")
        return outcomes

    def _attempt(self, connection: sqlite3.Connection, job: _Job) -> tuple[Any, Exception | None]:
        if job.write:
            connection.execute("SAVEPOINT work")
        try:
            result = job.work(connection)
        except Exception as exc:
            # A full or failing disk undoes the whole transaction; a lock is waited for with all of it.
            if not connection.in_transaction or _is_busy(exc):
                raise
            if job.write:
                connection.execute("ROLLBACK TO work")
                connection.execute("RELEASE work")
            return None, self._explain(exc) if isinstance(exc, sqlite3.Error) else exc
        if job.write:
            connection.execute("RELEASE work")
        return result, None

    def _explain(self, exc: sqlite3.Error) -> StateUnavailable:
        name = _name(exc)
        advice = next((text for code, text in _ADVICE.items() if name.startswith(code)), "see the cause")
        return StateUnavailable(f"state file {self._path}: {advice} ({name}: {exc})")


def _is_busy(exc: Exception) -> bool:
    return isinstance(exc, sqlite3.Error) and _name(exc).startswith("SQLITE_BUSY")


def _name(exc: sqlite3.Error) -> str:
    return getattr(exc, "sqlite_errorname", None) or type(exc).__name__
