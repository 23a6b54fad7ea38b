"""The tables of the PostgreSQL store and the way from every older form of them to the newest.

They live in a schema of their own; `@` stands for its name. A migration is never edited after a release; a change is one
more entry at the end. Only what PostgreSQL 13 knows is used.
"""

from __future__ import annotations

from typing import Any, Final

from rockbot.state.ports import StateUnavailable
from rockbot.state.postgres_functions import ERASE_FUNCTIONS, SETTLE_FUNCTIONS, STEP_FUNCTIONS, VALUE_FUNCTIONS

__all__ = ["MIGRATIONS", "migrate"]

_TABLES: Final = (
    # One counter for versions and fencing tokens: they grow over deletion and expiry without tombstones.
    "CREATE SEQUENCE @.state_numbers",
    # Keys and ids are compared by code point, whatever the language of the database is.
    """CREATE TABLE @.state_values (
        key text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, expires_ms bigint, value bytea NOT NULL)""",
    "CREATE INDEX ON @.state_values (expires_ms) WHERE expires_ms IS NOT NULL",
    """CREATE TABLE @.state_streams (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text COLLATE "C" NOT NULL UNIQUE, version bigint NOT NULL)""",
    """CREATE TABLE @.state_records (
        stream bigint NOT NULL, version bigint NOT NULL, at_ms bigint NOT NULL, value bytea NOT NULL,
        PRIMARY KEY (stream, version))""",
    "CREATE TABLE @.state_snapshots (stream bigint PRIMARY KEY, version bigint NOT NULL, value bytea NOT NULL)",
    """CREATE TABLE @.state_handled (
        stream bigint NOT NULL, message text COLLATE "C" NOT NULL, PRIMARY KEY (stream, message))""",
    """CREATE TABLE @.state_outbox (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text COLLATE "C" NOT NULL UNIQUE, stream bigint NOT NULL,
        cause text COLLATE "C" NOT NULL, door text NOT NULL, address text NOT NULL, awaits_answer boolean NOT NULL,
        sends integer NOT NULL, touched_ms bigint NOT NULL, claimed_until_ms bigint NOT NULL, claimed_by text NOT NULL,
        message bytea NOT NULL)""",
    "CREATE INDEX ON @.state_outbox (stream, cause)",
    "CREATE INDEX ON @.state_outbox (touched_ms)",
    """CREATE TABLE @.state_timers (
        id text COLLATE "C" PRIMARY KEY, due_ms bigint NOT NULL, payload bytea NOT NULL)""",
    "CREATE INDEX ON @.state_timers (due_ms, id)",
    """CREATE TABLE @.state_leases (
        name text COLLATE "C" PRIMARY KEY, owner text NOT NULL, token bigint NOT NULL, until_ms bigint NOT NULL)""",
    "CREATE INDEX ON @.state_leases (until_ms)",
    'CREATE TABLE @.state_amounts (key text COLLATE "C" PRIMARY KEY, settled float8 NOT NULL)',
    """CREATE TABLE @.state_reservations (
        id text COLLATE "C" PRIMARY KEY, key text COLLATE "C" NOT NULL, amount float8 NOT NULL, until_ms bigint NOT NULL,
        settled boolean NOT NULL)""",
    "CREATE INDEX ON @.state_reservations (key, until_ms) WHERE NOT settled",
    "CREATE INDEX ON @.state_reservations (until_ms)",
)

#: The statements that lead to each schema version, from 1; what this release writes is the last.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (*_TABLES, *VALUE_FUNCTIONS, *STEP_FUNCTIONS),
    ERASE_FUNCTIONS,
    SETTLE_FUNCTIONS,
)


async def migrate(
    connection: Any,
    schema: str,
    address: str,
    migrations: tuple[tuple[str, ...], ...] = MIGRATIONS,
) -> None:
    """Bring `schema` up to date in one transaction; does nothing when it is.

    Raises:
        StateUnavailable: a newer release wrote it.
    """
    newest = len(migrations)
    if await _version(connection, schema) == newest:
        return
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"rockbot schema {schema}")
        # Read again under the lock: another process may have been faster.
        version = await _version(connection, schema)
        if version > newest:
            raise StateUnavailable(
                f"the schema {schema} of {address} has version {version}, and this release knows {newest}: "
                "a newer release wrote it; run that one, or give this one another schema"
            )
        # Asked of the tables and not of the catalogue's cache, which may not know yet what was made while we waited.
        if not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema.strip('"')
        ):
            await connection.execute(f"CREATE SCHEMA {schema}")
        await connection.execute(f"CREATE TABLE IF NOT EXISTS {schema}.state_schema (version integer NOT NULL)")
        for migration in migrations[version:]:
            for statement in migration:
                await connection.execute(statement.replace("@", schema))
        await connection.execute(f"DELETE FROM {schema}.state_schema")  # noqa: S608 - a checked name
        await connection.execute(f"INSERT INTO {schema}.state_schema VALUES ({newest})")  # noqa: S608 - a checked name


async def _version(connection: Any, schema: str) -> int:
    known = "SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    known += " WHERE n.nspname = $1 AND c.relname = 'state_schema')"
    if not await connection.fetchval(known, schema.strip('"')):
        return 0
    return int(await connection.fetchval(f"SELECT coalesce(max(version), 0) FROM {schema}.state_schema"))  # noqa: S608 - a checked name
