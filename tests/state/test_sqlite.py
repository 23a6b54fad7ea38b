"""The store in a SQLite file."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import stat

import pytest
from blockbuster import blockbuster_ctx

from rockbot.state.contract import LedgerContract, LedgersUnderTest, StateStoreContract, StoresUnderTest
from rockbot.state.keys import conversation_key, key
from rockbot.state.ledger import StateLedger
from rockbot.state.ports import Append, StateUnavailable, Timer, VersionConflict
from rockbot.state.sqlite import SqliteStateStore
from rockbot.state.sqlite_schema import MIGRATIONS, migrate

K = key("acme", "thing", "one")


class TestSqliteStateStore(StateStoreContract):
    @pytest.fixture
    async def stores(self, clock, advance, tmp_path):
        async def open_():
            store = SqliteStateStore(tmp_path / "state.db", clock)
            await store.open()
            return store

        return StoresUnderTest(open=open_, advance=advance, shared=True, durable=True)


class TestLedgerInSqlite(LedgerContract):
    @pytest.fixture
    async def ledgers(self, clock, advance, tmp_path):
        stores = [SqliteStateStore(tmp_path / "state.db", clock) for _ in range(2)]
        await asyncio.gather(*(store.open() for store in stores))
        first, second = (StateLedger(store, retention_seconds=3600) for store in stores)
        yield LedgersUnderTest(first=first, second=second, advance=advance, retention=3600)
        await asyncio.gather(*(store.close() for store in stores))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "er" / "state.db"


@pytest.fixture
async def store(path, clock):
    store = SqliteStateStore(path, clock, busy_seconds=0.2)
    yield store
    await store.close()


async def test_a_missing_folder_is_made_and_nobody_else_may_look_into_the_file(store, path):
    await store.open()
    await store.put(K, b"x")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


async def test_every_commit_is_synced_to_a_write_ahead_log(store, path):
    await store.open()
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    assert await store._file.read(lambda at: at.execute("PRAGMA synchronous").fetchone()) == (2,)


async def test_ten_stores_may_open_a_new_file_together(path, clock):
    stores = [SqliteStateStore(path, clock) for _ in range(10)]
    await asyncio.gather(*(store.open() for store in stores))
    versions = await asyncio.gather(*(store.put(K, b"x") for store in stores))
    assert len(set(versions)) == 10
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_file_that_is_no_database_is_refused_and_left_alone(store, path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"my thesis, the only copy\n" * 100)
    with pytest.raises(StateUnavailable, match="not a SQLite database") as caught:
        await store.open()
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"my thesis, the only copy\n" * 100


async def test_a_folder_in_place_of_the_file_is_refused(store, path):
    path.mkdir(parents=True)
    with pytest.raises(StateUnavailable, match=r"state\.db cannot be opened for writing: Is a directory"):
        await store.open()


async def test_a_folder_that_cannot_be_made_is_told(tmp_path, clock):
    (tmp_path / "file").touch()
    store = SqliteStateStore(tmp_path / "file" / "state.db", clock)
    with pytest.raises(StateUnavailable, match="check the path and its permissions"):
        await store.open()
    with pytest.raises(StateUnavailable, match="not open"):
        await store.get(K)


async def test_a_file_of_a_newer_release_is_refused_and_left_alone(store, path):
    await store.open()
    await store.put(K, b"x")
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as newer, newer:
        newer.execute("UPDATE state_schema SET version = 99")
    newer.close()
    with pytest.raises(StateUnavailable, match="schema version 99") as caught:
        await store.open()
    assert str(path) in str(caught.value)


async def test_a_file_of_an_older_release_is_migrated_and_keeps_its_data(store, path, clock):
    await store.open()
    await store.put(K, b"x")
    await store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, str(path), (*MIGRATIONS, ("ALTER TABLE state_values ADD COLUMN colour TEXT DEFAULT 'red'",)))
    assert connection.execute("SELECT value, colour FROM state_values").fetchall() == [(b"x", "red")]
    assert connection.execute("SELECT version FROM state_schema").fetchall() == [(len(MIGRATIONS) + 1,)]
    connection.close()


async def test_a_migration_that_fails_leaves_the_old_form(store, path):
    await store.open()
    await store.put(K, b"x")
    await store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, str(path), (*MIGRATIONS, ("CREATE TABLE state_new (a)", "CREATE TABLE state_new (a)")))
    assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'state_new'").fetchall() == []
    connection.close()
    await store.open()
    assert await store.get(K) is not None


async def test_a_file_another_process_keeps_locked_is_told_and_used_again_afterwards(store, path):
    await store.open()
    version = await store.put(K, b"x")
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateUnavailable, match="another process keeps it locked"):
        await store.put(K, b"y")
    entry = await store.get(K)
    assert entry.value == b"x"
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await store.put(K, b"y", expect=version) > version


async def test_a_lock_that_is_let_go_in_time_is_waited_for(store, path):
    await store.open()
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(store.put(K, b"x"))
    await asyncio.sleep(0)
    blocker.execute("COMMIT")
    blocker.close()
    assert await writing > 0


async def test_opening_a_locked_new_file_gives_up_with_a_reason(store, path):
    path.parent.mkdir(parents=True)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StateUnavailable, match="another process keeps it locked"):
        await store.open()
    blocker.execute("ROLLBACK")
    blocker.close()
    await store.open()


async def test_tables_of_others_in_the_same_file_are_left_alone(store, path):
    path.parent.mkdir(parents=True)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE bus_messages (id INTEGER PRIMARY KEY)")
    await store.open()
    await store.put(K, b"x")
    other.execute("INSERT INTO bus_messages VALUES (1)")
    tables = {name for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {name for name in tables if not name.startswith(("state_", "sqlite_"))} == {"bus_messages"}
    other.close()


async def test_a_failing_write_does_not_take_its_neighbours_in_the_batch_with_it(store):
    await store.open()
    stream = conversation_key("acme", "talk")

    async def append(number: int):
        wrong = 7 if number % 2 else 0
        step = Append(
            stream=conversation_key("acme", f"talk{number}"), expected_version=wrong, records=(b"x",), handled="m"
        )
        return await store.append(step)

    results = await asyncio.gather(*map(append, range(40)), return_exceptions=True)
    assert [type(result) for result in results] == [int, VersionConflict] * 20
    assert (await store.load(stream)).version == 0


async def test_a_step_that_cannot_be_written_to_its_end_leaves_nothing(store):
    await store.open()

    async def append(name: str, due_ms: int):
        key = conversation_key("acme", name)
        timers = (Timer(name, due_ms, b""),)
        return await store.append(
            Append(stream=key, expected_version=0, records=(b"x",), handled="m", snapshot=b"s", timers=timers)
        )

    beyond_64_bits = 1 << 70
    results = await asyncio.gather(
        append("first", 1), append("broken", beyond_64_bits), append("last", 2), return_exceptions=True
    )
    assert [type(result) for result in results] == [int, OverflowError, int]
    loaded = await store.load(conversation_key("acme", "broken"), handled="m")
    assert (loaded.version, loaded.snapshot, loaded.handled) == (0, None, False)
    assert [timer.id for timer in await store.due(before_ms=10, limit=10)] == ["first", "last"]


async def test_a_caller_that_is_cancelled_leaves_the_store_usable(store):
    await store.open()
    tasks = [asyncio.create_task(store.put(key("acme", "thing", str(n)), b"x")) for n in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, int) for result in results[1::2])
    assert await store.put(K, b"x") > 0


async def test_what_is_over_does_not_fill_the_file(store, clock, path):
    await store.open()
    for number in range(300):
        await store.put(key("acme", "thing", str(number)), b"x", ttl=1)
        await store.acquire_lease(key("acme", "lease", str(number)), owner="a", ttl=1)
        await store.reserve(key("acme", "budget", "b"), 1, limit=1000, id=str(number), ttl=1)
    clock.advance(8 * 24 * 3600)
    for _ in range(300):
        await store.put(K, b"x")
    counts = await store._file.read(
        lambda at: [
            at.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("state_values", "state_leases", "state_reservations")
        ]
    )
    assert counts == [1, 0, 0]


async def test_no_call_blocks_the_event_loop(store):
    stream = conversation_key("acme", "talk")
    with blockbuster_ctx():
        await store.open()
        await store.put(K, b"x")
        await store.append(Append(stream=stream, expected_version=0, records=(b"x",), handled="m"))
        assert (await store.load(stream, handled="m")).handled
        await store.close()
