"""The store in PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from machines.many_rows import three_replicas_start
from nodes.postgres import PASSWORD
from state.calls import CALLS, answers_to
from state.servers import POSTGRES_BY_HAND, killed_while_writing, patiently, steps_that_meet, unavailable

from rockbot.errors import ConfigError
from rockbot.state import postgres_pool
from rockbot.state.contract import LedgerContract, LedgersUnderTest, StateStoreContract, StoresUnderTest
from rockbot.state.keys import conversation_key, key
from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore
from rockbot.state.open import open_store
from rockbot.state.ports import Append, StateUnavailable
from rockbot.state.postgres import PostgresStateStore
from rockbot.state.postgres_schema import MIGRATIONS, migrate
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.testing import FakeClock

K = key("acme", "thing", "one")
_SHARED = "contract"
_schemas = itertools.count(1)
_EMPTY = "; ".join(
    f"DELETE FROM @.state_{table}"
    for table in ("values", "streams", "records", "snapshots", "handled", "outbox", "timers", "leases", "amounts")
) + ("; DELETE FROM @.state_reservations; ALTER SEQUENCE @.state_numbers RESTART; UPDATE @.moved SET ms = ")


@pytest.fixture
def url(postgres):
    """The address of a schema nobody used."""
    return f"{postgres.url}?schema=s{next(_schemas)}&pool=5"


@pytest.fixture
async def admin(postgres):
    connection = await asyncpg.connect(postgres.url)
    yield connection
    await connection.close()


@pytest.fixture
async def store(url):
    store = PostgresStateStore(url)
    yield store
    await store.close()


async def opened(url):
    store = PostgresStateStore(url)
    await store.open()
    return store


async def emptied(postgres, admin, ms):
    """The address of a schema without data whose clock stands still at `ms`."""
    url = f"{postgres.url}?schema={_SHARED}&pool=5"
    if not await admin.fetchval("SELECT to_regclass($1)", f"{_SHARED}.moved"):
        await (await opened(url)).close()
        await admin.execute(POSTGRES_BY_HAND.replace("@", _SHARED))
    await admin.execute((_EMPTY + str(ms)).replace("@", _SHARED))
    return url


@pytest.fixture
async def contract_url(postgres, admin, clock):
    return await emptied(postgres, admin, clock.now_ms())


@pytest.fixture
async def advance(admin):
    async def advance(seconds):
        await admin.execute(f"UPDATE {_SHARED}.moved SET ms = ms + $1", round(seconds * 1000))

    return advance


class TestPostgresStateStore(StateStoreContract):
    @pytest.fixture
    async def stores(self, contract_url, advance):
        return StoresUnderTest(open=lambda: opened(contract_url), advance=advance, shared=True, durable=True)


class TestLedgerInPostgres(LedgerContract):
    @pytest.fixture
    async def ledgers(self, contract_url, advance):
        stores = [await opened(contract_url) for _ in range(2)]
        first, second = (StateLedger(store, retention_seconds=3600) for store in stores)
        yield LedgersUnderTest(first=first, second=second, advance=advance, retention=3600)
        await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.full
async def test_three_replicas_on_a_thousand_open_rows_send_each_at_most_twice(contract_url, advance):
    stores = [await opened(contract_url) for _ in range(3)]
    await three_replicas_start(stores, advance)
    await asyncio.gather(*(store.close() for store in stores))


def test_any_calls_have_the_same_answers_in_memory_and_in_postgres(postgres):
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(CALLS)
    def alike(calls):
        async def both():
            clock = FakeClock()
            in_memory = await answers_to(MemoryStateStore(clock), clock, calls)
            admin = await asyncpg.connect(postgres.url)

            class Moved:
                """The clock of the schema, moved between two calls."""

                by = 0.0

                def advance(self, seconds):
                    self.by += seconds

            class Follows:
                """The store, whose clock is where the calls moved it."""

                def __getattr__(self, name):
                    async def call(*arguments, **named):
                        by, moved.by = moved.by, 0.0
                        await admin.execute(f"UPDATE {_SHARED}.moved SET ms = ms + $1", round(by * 1000))
                        return await getattr(store, name)(*arguments, **named)

                    return call

            moved = Moved()
            store = PostgresStateStore(await emptied(postgres, admin, FakeClock().now_ms()))
            try:
                in_postgres = await answers_to(Follows(), moved, calls)
            finally:
                await store.close()
                await admin.close()
            assert in_memory == in_postgres

        asyncio.run(both())

    alike()


async def test_the_clock_is_that_of_the_database(store):
    await store.open()
    assert abs(await store.now_ms() - SystemClock().now_ms()) < 60_000


async def test_a_commit_is_on_disk_even_where_the_servers_default_is_faster(store, url, admin):
    await store.open()
    schema = url.partition("schema=")[2].partition("&")[0]
    assert await admin.fetchval("SHOW synchronous_commit") == "off"
    async with admin.transaction():
        await admin.execute(f"SELECT {schema}.begin_write('{{}}')")
        assert await admin.fetchval("SHOW synchronous_commit") == "on"


async def test_many_that_open_a_new_schema_together_make_it_once(url):
    stores = [PostgresStateStore(url) for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    versions = await asyncio.gather(*(store.put(key("acme", "thing", str(n)), b"x") for n, store in enumerate(stores)))
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]
    await asyncio.gather(*(store.close() for store in stores))


async def test_two_schemas_of_one_database_are_apart(store, postgres):
    await store.open()
    await store.put(K, b"x")
    other = await opened(f"{postgres.url}?schema=s{next(_schemas)}")
    assert await other.get(K) is None
    await other.close()


async def test_an_older_schema_is_brought_up_to_date_and_a_newer_one_refused(store, url, admin, postgres):
    await store.open()
    await store.put(K, b"x")
    schema = url.partition("schema=")[2].partition("&")[0]
    newer = (*MIGRATIONS, ("ALTER TABLE @.state_values ADD COLUMN later text",))
    await migrate(admin, f'"{schema}"', "here", newer)
    await migrate(admin, f'"{schema}"', "here", newer)
    assert await admin.fetchval(f"SELECT later FROM {schema}.state_values") is None
    with pytest.raises(StateUnavailable, match="newer release") as caught:
        await opened(url)
    assert str(postgres.port) in str(caught.value)
    assert PASSWORD not in str(caught.value)


async def test_steps_that_meet_at_the_same_rows_are_all_stored(store, url):
    await store.open()
    other = await opened(url)
    await steps_that_meet(store, other)
    await other.close()


async def test_a_statement_that_takes_too_long_is_ended_and_says_so(url, admin):
    store = await patiently(lambda: opened(f"{url}&timeout=1"))
    schema = url.partition("schema=")[2].partition("&")[0]
    async with admin.transaction():
        await admin.execute(f"LOCK TABLE {schema}.state_values")
        said = await unavailable(store.put(K, b"x"))
    assert "took too long" in said
    assert await patiently(lambda: store.get(K)) is None
    await patiently(lambda: store.put(K, b"y"))
    assert (await patiently(lambda: store.get(K))).value == b"y"
    await store.close()


async def test_a_pool_whose_connections_are_all_busy_is_told_as_such(url, admin, monkeypatch):
    monkeypatch.setattr(postgres_pool, "_BUSY_SECONDS", 0.2)
    store = await opened(url.replace("pool=5", "pool=1"))
    schema = url.partition("schema=")[2].partition("&")[0]
    async with admin.transaction():
        await admin.execute(f"LOCK TABLE {schema}.state_values")
        waits = asyncio.ensure_future(store.put(K, b"x"))
        await asyncio.sleep(0)
        assert "none of its 1 connections got free within 0.2 s" in await unavailable(store.get(K))
    await waits
    assert (await patiently(lambda: store.get(K))).value == b"x"
    await store.close()


async def test_a_call_that_was_cancelled_leaves_its_connection_fit_for_others(url, admin):
    store = await opened(url.replace("pool=5", "pool=1"))
    schema = url.partition("schema=")[2].partition("&")[0]
    async with admin.transaction():
        await admin.execute(f"LOCK TABLE {schema}.state_values")
        cancelled = asyncio.ensure_future(store.put(K, b"x"))
        await asyncio.wait({cancelled}, timeout=0.1)
        cancelled.cancel()
        await asyncio.wait({cancelled})
    assert await store.get(K) is None
    assert await store.put(K, b"y", expect=0)
    await store.close()


async def test_a_text_that_postgres_cannot_hold_is_refused_and_nothing_is_stored(store):
    await store.open()
    stream = conversation_key("acme", "talk")
    for message in ("a\0b", "x" * 1_000_000):
        with pytest.raises(ValueError, match="cannot store"):
            await store.append(Append(stream=stream, expected_version=0, records=(b"x",), handled=message))
    assert (await store.load(stream)).version == 0


# The socket of an attempt to connect that was cut off is the collector's to close, in asyncpg.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.crash
async def test_what_was_acknowledged_is_there_after_kill_9_of_the_server_and_nothing_by_halves(store, postgres):
    await store.open()
    await killed_while_writing(store, postgres)


@pytest.mark.crash
async def test_a_server_that_is_gone_is_told_without_the_password_and_found_again(store, postgres):
    await store.open()
    version = await store.put(K, b"x")
    postgres.kill()
    try:
        for work in (store.put(K, b"y"), store.get(K), PostgresStateStore(postgres.url).open()):
            said = await unavailable(work)
            assert f"127.0.0.1:{postgres.port}" in said
            assert "check that it runs" in said
            assert PASSWORD not in said
    finally:
        postgres.start()
    assert await store.put(K, b"z", expect=version) > version


async def test_a_wrong_password_is_told_without_it(postgres):
    said = await unavailable(PostgresStateStore(postgres.url_of("rockbot", "mistaken")).open())
    assert "check user and password" in said
    assert "mistaken" not in said


async def test_a_store_that_could_not_be_opened_can_be_opened_later(store, postgres):
    postgres.kill()
    await unavailable(store.open())
    postgres.start()
    await store.open()
    assert await store.put(K, b"x") == 1


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_an_address_makes_the_store(scheme, clock):
    assert isinstance(open_store(f"{scheme}://me:secret@db/rockbot?schema=mine", clock), PostgresStateStore)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me:secret@db/x?schema=a;b", "schema"),
        ("postgresql://me:secret@db/x?schema=" + "s" * 60, "schema"),
        ("postgresql://me:secret@db/x?pool=0", "pool"),
        ("postgresql://me:secret@db/x?timeout=soon", "timeout"),
        ("postgresql://me:se/cret@db/x", "is written"),
        ("postgresql://me:5/secret@db/x", "is written"),
        ("postgresql://me:secret@db:port/x", "is written"),
        ("postgresql://me:secret@[db/x", "is written"),
        ("postgresql://me:#secret@db/x", "is written"),
    ],
)
def test_a_wrong_address_is_told_without_its_secrets(url, says):
    with pytest.raises(ConfigError, match=says) as caught:
        PostgresStateStore(url)
    assert "cret" not in str(caught.value)
