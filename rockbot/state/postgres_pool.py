"""Connections to PostgreSQL: bounded, replaced when the server was restarted, with errors that say what to check.

One call is one statement, and so one transaction: no connection is held between statements, and a pooler between the host
and the server (PgBouncer 1.21 or newer, `max_prepared_statements` above 0) changes nothing. What the server undid because
two transactions met is tried again. A write whose connection broke is not: it may have been committed, and `StateUnavailable`
makes its caller read again.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from rockbot.errors import ConfigError
from rockbot.state.ports import StateUnavailable
from rockbot.state.postgres_schema import migrate
from rockbot.state.rules import not_open
from rockbot.state.tls import take_tls_files
from rockbot.state.under_way import UnderWay

__all__ = ["PostgresAddress", "PostgresPool"]

_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_HOSTS: Final = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?(,([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?)*")
_TLS: Final = {"cafile": "sslrootcert", "certfile": "sslcert", "keyfile": "sslkey"}
_WRITTEN: Final = (
    "a PostgreSQL address is written postgresql://user:password@host:5432/database, odd signs in it as %40"
)
#: How often a transaction that met another one is tried, and the longest pause before the next try.
_TRIES: Final = 10
_LONGEST_PAUSE: Final = 0.05
#: For connecting.
_CONNECT_SECONDS: Final = 5.0
#: For a connection of the pool, while others use all of them.
_BUSY_SECONDS: Final = 15.0
#: How much later than the server we end a statement.
_LATER_SECONDS: Final = 5.0

_FAILURES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
_MEETINGS: Final = ("40001", "40P01", "23505")
#: A text with NUL, an id longer than an index takes.
_NOT_STORABLE: Final = ("22021", "22P05", "54000")
_ADVICE: Final = {
    "08": "check that it runs and is reachable",
    "28": "check user and password",
    "3D": "create the database, or name another one",
    "42501": "let the user create its schema, or create the schema and make the user its owner",
    "25006": "it is read-only: name the primary",
    "53100": "its disk is full: free some space",
    "53300": "it has no connection left: raise max_connections, or lower the pool= of the hosts",
    "55P03": "another transaction keeps a lock: see pg_stat_activity",
    "57014": "a statement took too long: see pg_stat_activity",
    "57P": "it is starting or shutting down; wait for it",
}


@final
@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where a store is: `dsn` with its secrets, `shown` without, `schema` quoted; at most `pool` connections, and
    `timeout` seconds per statement.
    """

    dsn: str
    shown: str
    schema: str
    pool: int
    timeout: float

    @classmethod
    def parse(cls, url: str) -> PostgresAddress:
        """Take `schema`, `pool`, `timeout` and the files for TLS out of the query of an address; the rest is PostgreSQL's.

        Raises:
            ConfigError: one of them is wrong; the text does not repeat the address.
        """
        try:
            parts = urlsplit(url)
            query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError:
            raise ConfigError(_WRITTEN) from None
        schema, pool, timeout = query.pop("schema", "rockbot"), query.pop("pool", "10"), query.pop("timeout", "30")
        if not _SCHEMA.fullmatch(schema):
            raise ConfigError("the schema of a PostgreSQL address is made of a-z, 0-9 and _, and at most 48 long")
        if not (pool.isdecimal() and 1 <= int(pool) <= 1000):
            raise ConfigError("the pool of a PostgreSQL address is a number of connections from 1 to 1000")
        if not (timeout.isdecimal() and 1 <= int(timeout) <= 3600):
            raise ConfigError("the timeout of a PostgreSQL address is a number of seconds from 1 to 3600")
        if take_tls_files(query, _TLS, what="PostgreSQL"):
            query.setdefault("sslmode", "verify-full")
        place = parts.netloc.rpartition("@")[2] or query.get("host", "localhost")
        # An unescaped sign in a password moves the rest of it to where the host is looked for.
        if not _HOSTS.fullmatch(place) or "@" in parts.path or parts.fragment:
            raise ConfigError(_WRITTEN)
        shown = ",".join(host if _has_port(host) else f"{host}:5432" for host in place.split(","))
        dsn = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query), ""))
        return cls(dsn, f"postgresql://{shown}", f'"{schema}"', int(pool), float(timeout))


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


@final
class PostgresPool:
    """Runs statements in which `@` stands for the schema of `address`."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._pool: asyncpg.Pool | None = None
        self._calls = UnderWay()
        self._texts: dict[str, str] = {}

    async def open(self) -> None:
        """Connect and migrate; does nothing when it is open.

        Raises:
            StateUnavailable: it cannot be reached or used.
            ConfigError: the address is wrong.
        """
        if self._pool is not None:
            return
        address = self._address
        pool = None
        try:
            pool = await asyncpg.create_pool(
                address.dsn,
                min_size=1,
                max_size=address.pool,
                max_inactive_connection_lifetime=60,
                timeout=_CONNECT_SECONDS,
                # The server ends it first; this is for one that does not answer at all.
                command_timeout=address.timeout + _LATER_SECONDS,
                init=self._prepare,
                reset=_leave,
            )
            async with pool.acquire(timeout=_CONNECT_SECONDS) as connection:
                await migrate(connection, address.schema, address.shown)
        except BaseException as exc:
            if pool is not None:
                pool.terminate()
            if isinstance(exc, ValueError) and not isinstance(
                exc, OSError
            ):  # what the driver says of a wrong address may repeat it
                raise ConfigError(f"the address of {address.shown} has a part that is not understood") from None
            if isinstance(exc, _FAILURES):
                raise self._explain(exc) from exc
            raise
        self._pool = pool

    async def close(self) -> None:
        """Finish what is under way, then disconnect; idempotent."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        await self._calls.finished()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await pool.close()
        except (TimeoutError, *_FAILURES):
            pool.terminate()

    async def rows(self, sql: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """The rows of one statement.

        Raises:
            StateUnavailable: it did not run, or nobody knows whether it did.
            ValueError: a text or key cannot be stored.
        """
        pool = self._pool
        if pool is None:
            raise not_open(self._address.shown)
        text = self._texts.get(sql)
        if text is None:
            text = self._texts[sql] = sql.replace("@", self._address.schema)
        with self._calls:
            return await self._run(pool, text, arguments)

    async def row(self, sql: str, *arguments: object) -> asyncpg.Record:
        """The only row of one statement; raises as `rows`."""
        (row,) = await self.rows(sql, *arguments)
        return row

    async def _run(self, pool: asyncpg.Pool, text: str, arguments: Sequence[object]) -> Sequence[asyncpg.Record]:
        for left in reversed(range(_TRIES)):
            connected = False
            try:
                async with pool.acquire(timeout=_BUSY_SECONDS) as connection:
                    connected = True
                    rows: Sequence[asyncpg.Record] = await connection.fetch(text, *arguments)
                    return rows
            except _FAILURES as exc:
                code = getattr(exc, "sqlstate", None) or ""
                if code in ("22021", "22P05", "54000"):
                    raise ValueError(
                        f"{self._address.shown} cannot store a text with NUL or an id this long: {exc}"
                    ) from exc
                if not connected and isinstance(exc, TimeoutError) and pool.get_size() == self._address.pool:
                    raise StateUnavailable(
                        f"state store {self._address.shown}: none of its {self._address.pool} connections got free within "
                        f"{_BUSY_SECONDS:g} s; see what its statements wait for, or raise pool= in its address"
                    ) from exc
                if code not in _MEETINGS or not left:
                    raise self._explain(exc) from exc
            # Two transactions met and one was undone: nothing of it is stored.
            await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - a pause, not a secret
        raise AssertionError("unreachable")

    def _explain(self, exc: BaseException) -> StateUnavailable:
        code = getattr(exc, "sqlstate", None) or ""
        known = next((text for begin, text in _ADVICE.items() if code.startswith(begin)), None)
        said = " ".join(str(exc).split()) or (
            "no answer in time" if isinstance(exc, TimeoutError) else type(exc).__name__
        )
        if code and not code.startswith("08"):
            said = f"{code}: {said}"
        if isinstance(exc, ssl.SSLError):
            known = "check its certificate, and the files for TLS in its address"
        advice = known or ("see the cause" if code else "check that it runs and is reachable")
        return StateUnavailable(f"state store {self._address.shown}: {advice} ({said})")

    async def _prepare(self, connection: Any) -> None:
        # A startup parameter would do the same, and poolers refuse those.
        await connection.execute(f"SET statement_timeout = {round(self._address.timeout * 1000)}")


async def _leave(connection: Any) -> None:
    """No statement leaves anything behind in its session, so a round trip to reset it would be for nothing."""
