"""What every older release wrote is brought up to date, and what it stored is there."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sqlite3

import asyncpg
import pytest
from redis.asyncio import Redis

from rockbot.state import postgres_schema, sqlite_schema
from rockbot.state.contract.stores import command, step
from rockbot.state.items import KINDS
from rockbot.state.keys import conversation_key, key, prefix
from rockbot.state.postgres import PostgresStateStore
from rockbot.state.redis import RedisStateStore
from rockbot.state.sqlite import SqliteStateStore

C = conversation_key("acme", "c1")
K = key("acme", "thing", "a")
_names = itertools.count(1)
#: The first characters of the digest of each migration that a release has had. A line is added, none is ever changed.
RELEASED = {
    "sqlite": ["00bc9c5e20b10d0f"],
    "postgres": ["e8cc4b393b90bccb", "c6b00de602fed0af", "b3097aa6011b71d7"],
}


def _digest(migration):
    return hashlib.sha256("\0".join(migration).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("of", "migrations"), [("sqlite", sqlite_schema.MIGRATIONS), ("postgres", postgres_schema.MIGRATIONS)]
)
def test_a_released_migration_is_never_edited(of, migrations):
    assert [_digest(migration) for migration in migrations] == RELEASED[of]


async def _is_whole(store):
    """What `_of_the_first_form` left is there, and everything that this release does with a store works on it."""
    await store.open()
    loaded = await store.load(C, handled="m1")
    assert [record.value for record in loaded.records] == [b"one"]
    assert [row.id for row in loaded.unanswered] == ["out"]
    assert (await store.get(K)).value == b"x"
    counts = {kind: count for kind, count in (await store.census()).counts.items() if count}
    assert counts == {"value": 1, "stream": 1, "record": 1, "handled": 1, "row": 1, "amount": 1, "reservation": 2}
    there = [item for kind in KINDS for item in (await store.dump(kind)).items]
    assert len(there) == 1 + sum(counts.values())
    assert await store.append(step(C, 1, "m2", b"two", answered=("out",))) == 2
    await store.settle("open", 2)
    assert (await store.reserve(key("acme", "budget", "b"), 1, limit=9, id="new", ttl=60)).taken == 4
    assert dict(await store.erase(prefix("acme", "conversation", "c1"))) == {"stream": 1, "record": 2, "handled": 2}
    assert dict(await store.erase(prefix("acme", "budget", "b"))) == {"amount": 1, "reservation": 3}
    await store.close()
    await store.open()
    assert (await store.load(C)).version == 0
    await store.close()


async def _fill(store):
    await store.open()
    await store.append(step(C, 0, "m1", b"one", outbox=(command("out", "m1"),)))
    await store.put(K, b"x")
    for name, settled in (("done", 1.0), ("open", None)):
        await store.reserve(key("acme", "budget", "b"), 2, limit=9, id=name, ttl=600)
        if settled is not None:
            await store.settle(name, settled)
    await store.close()


@pytest.mark.parametrize("version", range(1, len(sqlite_schema.MIGRATIONS) + 1))
async def test_a_file_of_each_schema_is_brought_up_to_date(tmp_path, clock, version):
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as older, older:
        sqlite_schema.migrate(older, str(path), sqlite_schema.MIGRATIONS[:version])
        now = clock.now_ms()
        # In SQL, not through the store: what an older release wrote must not depend on what this one writes.
        older.executescript(f"""
            UPDATE state_counter SET value = 1;
            INSERT INTO state_values (key, version, expires_ms, value) VALUES ('{K}', 1, NULL, x'78');
            INSERT INTO state_streams (id, key, version) VALUES (1, '{C}', 1);
            INSERT INTO state_records (stream, version, at_ms, value) VALUES (1, 1, {now}, x'6f6e65');
            INSERT INTO state_handled (stream, message) VALUES (1, 'm1');
            INSERT INTO state_outbox (id, stream, cause, door, address, awaits_answer, sends, touched_ms,
                claimed_until_ms, claimed_by, message) VALUES ('out', 1, 'm1', 'commands', '', 1, 0, {now}, 0, '', x'00');
            INSERT INTO state_amounts (key, settled) VALUES ('acme/budget/b', 1.0);
            INSERT INTO state_reservations (id, key, amount, until_ms, settled) VALUES
                ('done', 'acme/budget/b', 2.0, {now}, 1), ('open', 'acme/budget/b', 2.0, {now + 600000}, 0);
        """)
    older.close()
    await _is_whole(SqliteStateStore(path, clock))


@pytest.mark.parametrize("version", range(1, len(postgres_schema.MIGRATIONS) + 1))
async def test_a_schema_of_each_version_is_brought_up_to_date(postgres, version):
    url = f"{postgres.url}?schema=old{next(_names)}"
    schema = url.partition("schema=")[2]
    admin = await asyncpg.connect(postgres.url)
    try:
        await postgres_schema.migrate(admin, f'"{schema}"', "here", postgres_schema.MIGRATIONS[:version])
        # Its own functions, as they were.
        await admin.execute(
            f"SELECT {schema}.write_all(ARRAY['{K}'], ARRAY['x'::bytea], ARRAY[NULL::bigint], ARRAY[NULL::bigint])"
        )
        none = "ARRAY[]::{}[]"
        texts, numbers, blobs = none.format("text"), none.format("bigint"), none.format("bytea")
        await admin.execute(
            f"SELECT {schema}.append('{C}', 0, ARRAY['one'::bytea], 'm1', NULL, ARRAY['out'], ARRAY['m1'],"
            f" ARRAY['commands'], ARRAY[''], ARRAY[true], ARRAY['x'::bytea], {texts}, {texts}, {numbers}, {blobs}, {texts},"
            f" {texts}, {blobs})"
        )
        for call in ("done", "open"):
            await admin.execute(f"SELECT {schema}.reserve('acme/budget/b', 2, 9, '{call}', 600000)")
        await admin.execute(f"SELECT {schema}.settle('done', 1)")
    finally:
        await admin.close()
    await _is_whole(PostgresStateStore(url))


async def test_redis_of_the_first_form_is_brought_up_to_date(redis_node):
    own = f"old{next(_names)}"
    url = f"{redis_node.url}?prefix={own}"
    await _fill(RedisStateStore(url))
    admin = Redis.from_url(redis_node.url)
    tag = f"{{{own}}}"
    # The first form had none of these lists.
    assert await admin.delete(*(f"{tag}:{name}" for name in ("spaces", "streams", "amounts", "calls"))) == 4
    await admin.set(f"{tag}:form", 1)
    await admin.aclose()
    await _is_whole(RedisStateStore(url))
