"""A step is stored whole or not at all, whenever the process dies."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rockbot.state.keys import conversation_key, key, task_key
from rockbot.state.sqlite import SqliteStateStore

pytestmark = pytest.mark.crash

PROGRAM = str(Path(__file__).with_name("crashing.py"))


async def _start(*arguments: str):
    return await asyncio.create_subprocess_exec(
        sys.executable, PROGRAM, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )


@asynccontextmanager
async def _dying(path: Path, what: str, size: int) -> AsyncIterator[Callable[[int], Awaitable[bool]]]:
    """Runs a process that dies at a statement; whether it got so far that it died."""
    process = await _start(str(path), what, str(size))

    async def at(statement: int) -> bool:
        process.stdin.write(f"{statement}\n".encode())
        told = await process.stdout.readline()
        if told == b"survived\n":
            assert await process.stdout.readline() == b"ended 0\n"
            return False
        assert told == f"ended {-signal.SIGKILL}\n".encode()
        return True

    yield at
    process.stdin.close()
    assert await process.wait() == 0


async def _version_if_whole(store: SqliteStateStore, stream: str) -> int:
    """The version of a stream, after checking that every part of every step up to it is there, and nothing of another."""
    key = conversation_key("acme", stream)
    version = (await store.load(key)).version
    loaded = await store.load(key, handled=f"{stream}-{version}")
    records = await store.read(key, limit=100_000)
    number = str(version).encode()
    assert [record.value.split()[0] for record in records] == [str(n).encode() for n in range(1, version + 1)]
    index = await store.get(task_key("acme", stream))
    timers = [timer.due_ms for timer in await store.due(before_ms=1 << 50, limit=10) if timer.id == stream]
    assert not (await store.load(key, handled=f"{stream}-{version + 1}")).handled
    if version:
        assert loaded.handled
        assert [row.id for row in loaded.unanswered] == [f"{stream}-{version}"]
        assert (loaded.snapshot.version, loaded.snapshot.value) == (version, number)
        assert index.value == number
        assert timers == [version]
    else:
        assert (index, timers, loaded.snapshot) == (None, [], None)
    return version


async def test_what_was_acknowledged_is_there_after_kill_9_and_nothing_is_there_by_halves(tmp_path, clock):
    path = tmp_path / "state.db"
    for lines in (1, 30, 111, 400):
        process = await _start(str(path), "forever")
        told = dict.fromkeys("abcd", 0)
        async with asyncio.timeout(60):
            for _ in range(lines):
                stream, version = (await process.stdout.readline()).split()
                told[stream.decode()] = int(version)
        process.kill()
        rest, _ = await process.communicate()
        # A last line may be torn; a whole one was written after its append.
        for line in rest.splitlines(keepends=True):
            if line.endswith(b"\n"):
                stream, version = line.split()
                told[stream.decode()] = int(version)
        assert process.returncode == -signal.SIGKILL
        store = SqliteStateStore(path, clock)
        await store.open()
        for stream, acknowledged in told.items():
            assert await _version_if_whole(store, stream) in (
                (acknowledged, acknowledged + 1) if acknowledged else range(10_000)
            )
        await store.close()


@pytest.mark.parametrize("size", [10, 3 << 20])
async def test_an_append_that_dies_at_any_of_its_statements_leaves_nothing(tmp_path, clock, size):
    path = tmp_path / "state.db"
    store = SqliteStateStore(path, clock)
    await store.open()
    died = 0
    async with _dying(path, "at", size) as dies:
        while await dies(died + 1):
            assert await _version_if_whole(store, "a") == 0
            died += 1
        assert await _version_if_whole(store, "a") == 1
    await store.close()
    assert died > 10


@pytest.mark.parametrize("size", [10, 3 << 20])
async def test_a_commit_that_dies_at_any_of_its_statements_leaves_nothing(tmp_path, clock, size):
    store = SqliteStateStore(tmp_path / "state.db", clock)
    await store.open()
    one, two, old = (key("acme", "thing", name) for name in ("one", "two", "old"))
    mark = key("acme", "handled", "orders", "m1")
    await store.put(old, b"0")
    died = 0
    async with _dying(tmp_path / "state.db", "commit", size) as dies:
        while await dies(died + 1):
            assert await store.committed(mark, cause="m1") is None
            assert [(await store.get(each)) is not None for each in (one, two, old)] == [False, False, True]
            died += 1
    assert [row.id for row in await store.committed(mark, cause="m1")] == ["m1-a", "m1-b"]
    assert [(await store.get(each)) is not None for each in (one, two, old)] == [True, True, False]
    await store.close()
    assert died > 10


async def test_a_disk_that_fills_up_fails_the_step_whole_and_the_store_goes_on_when_there_is_room(tmp_path, clock):
    process = await _start(str(tmp_path / "state.db"), "full")
    output, _ = await process.communicate()
    said, version = output.decode().splitlines()
    assert "state.db" in said
    assert "disk" in said
    assert version == "2"
    store = SqliteStateStore(tmp_path / "state.db", clock)
    await store.open()
    assert await _version_if_whole(store, "a") == 2
    await store.close()
