"""A store of any kind is carried into one of any other, and is the same there; hosts that run and copies cut off are seen."""

from __future__ import annotations

import itertools

import pytest

from rockbot.presence import ProcessStatus
from rockbot.state.contract.wholes import fill
from rockbot.state.desk import moving
from rockbot.state.desk.checking import check_store
from rockbot.state.desk.moving import MoveRefused, export, load, migrate, unfinished
from rockbot.state.items import KINDS, NumberItem
from rockbot.state.keys import conversation_key, key
from rockbot.state.memory import MemoryStateStore
from rockbot.state.open import open_store
from rockbot.state.ports import StateUnavailable
from rockbot_messaging.clock import SystemClock

_names = itertools.count(1)
KINDS_OF_STORES = ["sqlite", "postgres", "redis"]


@pytest.fixture
def address(request, tmp_path):
    """A new store of a kind, which is opened and closed with the test."""

    def make(kind):
        name = f"moved{next(_names)}"
        match kind:
            case "sqlite":
                return f"sqlite:///{tmp_path / name}"
            case "postgres":
                return f"{request.getfixturevalue('postgres').url}?schema={name}"
            case _:
                return f"{request.getfixturevalue('redis_node').url}?prefix={name}"

    return make


@pytest.fixture
async def opened(address):
    stores = []

    async def make(kind):
        store = open_store(address(kind), SystemClock())
        await store.open()
        stores.append(store)
        return store

    yield make
    for store in stores:
        await store.close()


async def whole(store):
    return {kind: sorted([repr(item) async for item in items(store, kind)]) for kind in KINDS if kind != "number"}


async def items(store, kind):
    after = None
    while True:
        page = await store.dump(kind, after=after, limit=3)
        for item in page.items:
            yield item
        if (after := page.next) is None:
            return


async def number(store):
    [item] = (await store.dump("number")).items
    assert isinstance(item, NumberItem)
    return item.value


@pytest.mark.parametrize(("one", "other"), [(a, b) for a in KINDS_OF_STORES for b in KINDS_OF_STORES])
async def test_a_store_of_any_kind_is_migrated_into_any_other(opened, one, other):
    source, to = await opened(one), await opened(other)
    await fill(source)
    moved = await migrate(source, to)
    assert moved.counts["record"] == 12
    assert await whole(to) == await whole(source)
    assert await number(to) >= await number(source)
    assert not await unfinished(to)
    loaded = await to.load(conversation_key("acme", "c1"), handled="c1-m1")
    assert (loaded.version, [row.id for row in loaded.unanswered]) == (4, ["c1-a", "c1-b"])


@pytest.mark.parametrize(("one", "other"), [("sqlite", "redis"), ("redis", "postgres"), ("postgres", "sqlite")])
async def test_a_file_carries_a_store_of_one_kind_into_another(opened, one, other, tmp_path):
    source, to = await opened(one), await opened(other)
    await fill(source)
    with (tmp_path / "x.jsonl").open("wb") as file:
        written = await export(source, file, release="1")
    assert await load(to, tmp_path / "x.jsonl") == written
    assert await whole(to) == await whole(source)


@pytest.fixture
async def pair(clock):
    found = MemoryStateStore(clock), MemoryStateStore(clock)
    for store in found:
        await store.open()
    await fill(found[0])
    return found


async def _runs(store):
    said = ProcessStatus(
        owner="host:1", what="host", at_ms=0, connected=True, broker="", subscriptions=(), idle_seconds={}, outages=()
    )
    await store.put(key("host", "status", "host:1"), said.model_dump_json().encode(), ttl=60)


async def test_a_store_that_hosts_run_on_is_not_migrated_unless_forced(pair):
    source, to = pair
    await _runs(source)
    with pytest.raises(MoveRefused, match=r"host:1.*--force"):
        await migrate(source, to)
    assert not any((await to.census()).counts.values())
    await migrate(source, to, force=True)
    # Who runs on the one does not run on the other.
    assert await to.get(key("host", "status", "host:1")) is None


async def test_what_is_written_during_a_migration_is_found_out(pair):
    source, to = pair

    class Busy:
        """The source, on which somebody works."""

        def __getattr__(self, name):
            return getattr(source, name)

        async def dump(self, kind, **page):
            if kind == "timer":
                await source.put(key("acme", "thing", "late"), b"x")
            return await source.dump(kind, **page)

    with pytest.raises(MoveRefused, match=r"value: \d+ and \d+"):
        await migrate(Busy(), to, force=True)
    assert await unfinished(to)


async def test_a_migration_that_was_cut_off_leaves_a_mark_that_the_doctor_sees(pair, clock):
    source, to = pair

    class Dying:
        def __getattr__(self, name):
            return getattr(to, name)

        async def restore(self, items):
            if items and hasattr(items[0], "timer"):
                raise StateUnavailable("gone")
            await to.restore(items)

    with pytest.raises(StateUnavailable):
        await migrate(source, Dying())
    checks = {check.name: check for check in await check_store(to, clock)}
    assert checks["copy"].status == "fail"
    with pytest.raises(MoveRefused, match="not empty"):
        await migrate(source, to)


async def test_values_that_end_meanwhile_do_not_make_a_copy_another(pair, clock):
    source, to = pair
    await source.put(key("acme", "thing", "short"), b"x", ttl=30)

    class Slow:
        def __getattr__(self, name):
            return getattr(to, name)

        async def restore(self, items):
            clock.advance(3)
            await to.restore(items)

    await migrate(source, Slow())
    assert not await unfinished(to)


async def test_memory_stays_flat_over_many_large_values(tmp_path, clock):
    """Pages end by bytes, so what lies in memory does not grow with the store."""
    source, to = MemoryStateStore(clock), MemoryStateStore(clock)
    await source.open()
    await to.open()
    for name in range(40):
        await source.put(key("acme", "artifact", f"{name:02d}"), bytes(1 << 20))
    largest = 0

    class Watched:
        def __getattr__(self, name):
            return getattr(to, name)

        async def restore(self, items):
            nonlocal largest
            largest = max(
                largest, sum(len(getattr(item, "value", b"") or b"") for item in items if hasattr(item, "key"))
            )
            await to.restore(items)

    with (tmp_path / "x").open("wb") as file:
        await export(source, file, release="1")
    await load(Watched(), tmp_path / "x")
    assert 0 < largest <= moving.DUMP_BYTES + (1 << 20)
    assert (await to.census()).counts["value"] == 40
