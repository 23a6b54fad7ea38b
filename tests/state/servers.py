"""What becomes of steps when the server of a store is killed while they are written."""

from __future__ import annotations

import asyncio

from rockbot.state.keys import conversation_key, key, task_key
from rockbot.state.ports import Append, Commit, IndexRow, OutboxRow, StateUnavailable, Timer, VersionConflict, Write

STREAMS = "abcd"
#: The clock of a Redis server by hand, as far as one prefix sees it.
REDIS_BY_HAND = "local now = tonumber(redis.call('GET', KEYS[1] .. ':moved'))"

#: The clock of a PostgreSQL server by hand, as far as one schema (`@`) sees it.
POSTGRES_BY_HAND = """CREATE TABLE @.moved AS SELECT @.clock_ms() AS ms;
CREATE OR REPLACE FUNCTION @.clock_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$ SELECT ms FROM @.moved $$"""


def step_of(stream, version):
    """The step that leads to `version` + 1: everything in it carries that number."""
    number = str(version + 1)
    name = f"{stream}-{number}"
    return Append(
        stream=conversation_key("acme", stream),
        expected_version=version,
        records=(number.encode(),),
        handled=name,
        snapshot=number.encode(),
        outbox=(OutboxRow(id=name, cause=name, message=b"x", door="commands", awaits_answer=True),),
        answered=(f"{stream}-{version}",),
        timers=(Timer(stream, version + 1, b""),),
        index=(IndexRow(task_key("acme", stream), number.encode()),),
    )


def commit_of(number):
    """A commit that counts in two values at once."""
    data = str(number).encode()
    return Commit(
        mark=key("acme", "handled", "orders", f"m{number}"),
        remember=3600,
        cause=f"m{number}",
        writes=(Write(key=key("acme", "thing", "one"), value=data), Write(key=key("acme", "thing", "two"), value=data)),
        outbox=(OutboxRow(id=f"m{number}", cause=f"m{number}", message=b"x", door="commands"),),
    )


async def version_if_whole(store, stream):
    """The version of a stream, after checking that every part of its last step is there, and nothing of another."""
    of = conversation_key("acme", stream)
    version = (await store.load(of)).version
    number = str(version).encode()
    loaded = await store.load(of, handled=f"{stream}-{version}")
    records = await store.read(of, limit=100_000)
    assert [record.value for record in records] == [str(n).encode() for n in range(1, version + 1)]
    assert not (await store.load(of, handled=f"{stream}-{version + 1}")).handled
    index = await store.get(task_key("acme", stream))
    timers = [timer.due_ms for timer in await store.due(before_ms=1 << 50, limit=10) if timer.id == stream]
    if version == 0:
        assert (index, timers, loaded.snapshot) == (None, [], None)
        return 0
    assert loaded.handled
    assert [row.id for row in loaded.unanswered] == [f"{stream}-{version}"]
    assert (loaded.snapshot.version, loaded.snapshot.value) == (version, number)
    assert (index.value, timers) == (number, [version])
    return version


async def killed_while_writing(store, node, *, rounds=3):
    """Kill the server under four growing streams and a row of commits, start it again, and look at what is there.

    The same store object is used throughout: it connects again by itself.
    """
    acknowledged = dict.fromkeys(STREAMS, 0)
    commits = 0
    appended = asyncio.Condition()

    async def grow(stream):
        while True:
            try:
                version = await store.append(step_of(stream, acknowledged[stream]))
            except StateUnavailable:
                return
            async with appended:
                acknowledged[stream] = version
                appended.notify_all()

    async def count():
        nonlocal commits
        while True:
            try:
                await store.commit(commit_of(commits + 1))
            except StateUnavailable:
                return
            commits += 1

    for _ in range(rounds):
        before = sum(acknowledged.values())
        writers = [asyncio.ensure_future(work) for work in (*map(grow, STREAMS), count())]
        async with asyncio.timeout(60), appended:
            await appended.wait_for(lambda before=before: sum(acknowledged.values()) >= before + 60)
        node.kill()
        async with asyncio.timeout(60):
            await asyncio.gather(*writers)
        node.start()
        for stream, told in acknowledged.items():
            acknowledged[stream] = await version_if_whole(store, stream)
            assert acknowledged[stream] in (told, told + 1)
        one, two = [await store.get(key("acme", "thing", name)) for name in ("one", "two")]
        assert one.value == two.value
        assert int(one.value) in (commits, commits + 1)
        commits = int(one.value)
        rows = await store.committed(commit_of(commits).mark, cause=f"m{commits}")
        assert [row.id for row in rows] == [f"m{commits}"]
        assert await store.committed(commit_of(commits + 1).mark, cause=f"m{commits + 1}") is None


async def steps_that_meet(first, second):
    """Steps of two streams that close and open the same rows, in opposite orders, are all stored."""
    ids = [f"row{n}" for n in range(20)]

    async def grow(store, stream, order):
        for version in range(15):
            rows = tuple(OutboxRow(id=row, cause=f"m{version}", message=b"x", door="d") for row in order)
            step = Append(
                stream=conversation_key("acme", stream),
                expected_version=version,
                records=(b"x",),
                handled=f"m{version}",
                answered=tuple(order),
                outbox=rows,
            )
            await store.append(step)
            await store.mark_sent(order)

    await asyncio.gather(grow(first, "one", ids), grow(second, "two", ids[::-1]), grow(second, "three", ids))
    for stream in ("one", "two", "three"):
        assert (await first.load(conversation_key("acme", stream))).version == 15


async def unavailable(work):
    """What the store says when its server is gone."""
    try:
        async with asyncio.timeout(60):
            await work
    except StateUnavailable as exc:
        return str(exc)
    except VersionConflict as exc:
        raise AssertionError(str(exc)) from exc
    raise AssertionError("it was available")


async def patiently(call):
    """What a call returns, made again while the store is not available: for stores with less patience than a busy machine."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except StateUnavailable:
                await asyncio.sleep(0)
