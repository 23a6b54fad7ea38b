"""The store in Redis."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from machines.many_rows import three_replicas_start
from nodes.launching import free_port
from nodes.redis import PASSWORD, RedisNode
from redis.asyncio import Redis
from state.calls import CALLS, answers_to
from state.servers import REDIS_BY_HAND, killed_while_writing, patiently, steps_that_meet, unavailable

from rockbot.errors import ConfigError
from rockbot.operators.probes import state_probe
from rockbot.state.contract import LedgerContract, LedgersUnderTest, StateStoreContract, StoresUnderTest
from rockbot.state.contract.stores import command, step
from rockbot.state.keys import conversation_key, key, prefix
from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore
from rockbot.state.open import open_store
from rockbot.state.ports import StateUnavailable
from rockbot.state.redis import RedisStateStore
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.testing import FakeClock

K = key("acme", "thing", "one")
_prefixes = itertools.count(1)


@pytest.fixture
def own():
    """A prefix nobody used."""
    return f"p{next(_prefixes)}"


@pytest.fixture
def url(redis_node, own):
    return f"{redis_node.url}?prefix={own}&pool=5"


@pytest.fixture
async def admin(redis_node):
    client = Redis.from_url(redis_node.url)
    yield client
    await client.aclose()


@pytest.fixture
async def advance(admin, own, clock):
    await admin.set(f"{{{own}}}:moved", clock.now_ms())

    async def advance(seconds):
        await admin.incrby(f"{{{own}}}:moved", round(seconds * 1000))

    return advance


@pytest.fixture
async def store(url):
    store = RedisStateStore(url)
    yield store
    await store.close()


async def opened(url, **named):
    store = RedisStateStore(url, **named)
    await store.open()
    return store


class TestRedisStateStore(StateStoreContract):
    @pytest.fixture
    async def stores(self, url, advance):
        return StoresUnderTest(
            open=lambda: opened(url, clock=REDIS_BY_HAND), advance=advance, shared=True, durable=True
        )


class TestLedgerInRedis(LedgerContract):
    @pytest.fixture
    async def ledgers(self, url, advance):
        stores = [await opened(url, clock=REDIS_BY_HAND) for _ in range(2)]
        first, second = (StateLedger(store, retention_seconds=3600) for store in stores)
        yield LedgersUnderTest(first=first, second=second, advance=advance, retention=3600)
        await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.full
async def test_a_task_that_is_cancelled_in_any_moment_of_a_call_ends(store):
    await store.open()
    calls = 0

    async def call():
        nonlocal calls
        while True:
            await store.reserve(K, 1, limit=1, id="call", ttl=60)
            calls += 1

    for turns in range(300):
        task = asyncio.create_task(call())
        for _ in range(turns % 50):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=60)
        assert task.cancelled()
    assert calls


async def test_calls_are_made_in_the_order_in_which_they_are_asked_for_however_few_connections_there_are(
    redis_node, own
):
    store = await opened(f"{redis_node.url}?prefix={own}&pool=2")
    made = []

    async def call(number):
        for _ in range(10):
            await store.get(K)
            made.append(number)

    await asyncio.gather(*map(call, range(40)))
    await store.close()
    rounds = [sorted(made[at : at + 40]) for at in range(0, 400, 40)]
    overtaken = sum(set(each) != set(range(40)) for each in rounds[1:-1])
    assert overtaken <= 2, rounds


async def test_three_replicas_on_a_thousand_open_rows_send_each_at_most_twice(url, advance):
    stores = [await opened(url, clock=REDIS_BY_HAND) for _ in range(3)]
    await three_replicas_start(stores, advance)
    await asyncio.gather(*(store.close() for store in stores))


def test_any_calls_have_the_same_answers_in_memory_and_in_redis(redis_node):
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(CALLS)
    def alike(calls):
        async def both():
            clock = FakeClock()
            in_memory = await answers_to(MemoryStateStore(clock), clock, calls)
            own = f"same{next(_prefixes)}"
            admin = Redis.from_url(redis_node.url)
            now_ms = FakeClock().now_ms()

            class Moved:
                """The clock of the prefix, moved between two calls."""

                def advance(self, seconds):
                    nonlocal now_ms
                    now_ms += round(seconds * 1000)

            class Follows:
                """The store, whose clock is where the calls moved it."""

                def __getattr__(self, name):
                    async def call(*arguments, **named):
                        await admin.set(f"{{{own}}}:moved", now_ms)
                        return await getattr(store, name)(*arguments, **named)

                    return call

            store = RedisStateStore(f"{redis_node.url}?prefix={own}", clock=REDIS_BY_HAND)
            try:
                in_redis = await answers_to(Follows(), Moved(), calls)
            finally:
                await store.close()
                await admin.aclose()
            assert in_memory == in_redis

        asyncio.run(both())

    alike()


async def test_the_clock_is_that_of_the_server(store):
    await store.open()
    assert abs(await store.now_ms() - SystemClock().now_ms()) < 5000


async def test_all_keys_of_a_store_carry_its_hash_tag(store, admin, own):
    before = set(await admin.keys())
    await store.open()
    await store.put(K, b"x", ttl=10)
    await store.append(step(conversation_key("acme", "talk"), 0, "m1", outbox=(command("out", "m1"),)))
    await store.acquire_lease(K, owner="me", ttl=10)
    await store.reserve(K, 1, limit=10, id="call", ttl=10)
    made = set(await admin.keys()) - before
    assert len(made) > 10
    assert all(name.startswith(b"{%s}:" % own.encode()) for name in made)


async def test_values_that_are_over_are_removed_in_time(url, admin, own, advance):
    store = await opened(url, clock=REDIS_BY_HAND)
    for number in range(20):
        await store.put(key("acme", "short", str(number)), b"x", ttl=1)
    await advance(2)
    for _ in range(256):
        await store.put(K, b"x")
    assert not [name async for name in admin.scan_iter(f"{{{own}}}:v:acme/short/*")]
    assert await admin.zcard(f"{{{own}}}:i:acme/short") == 0
    assert (await store.list(prefix("acme", "short"))).entries == ()
    await store.close()


async def test_of_a_great_many_rows_the_oldest_are_claimed_first_and_each_once(store):
    await store.open()
    ids = [f"o{number:04}" for number in range(1500)]
    stream = conversation_key("acme", "talk")
    await store.append(step(stream, 0, "m1", outbox=tuple(command(name, "m1") for name in ids)))
    claimed = []
    for _ in range(3):
        claimed += [row.id for row in await store.claim_outbox(owner="me", idle=0, claim=60, limit=500)]
    assert claimed == ids
    assert list(await store.claim_outbox(owner="me", idle=0, claim=60, limit=500)) == []


async def test_scripts_that_the_server_forgot_are_sent_again(store, admin):
    await store.open()
    await store.put(K, b"x")
    await admin.script_flush()
    assert await store.put(K, b"y") == 2


async def test_steps_that_meet_at_the_same_rows_are_all_stored(store, url):
    await store.open()
    other = await opened(url)
    await steps_that_meet(store, other)
    await other.close()


async def test_what_a_newer_release_wrote_is_refused(url, admin, own):
    await admin.set(f"{{{own}}}:form", 99)
    with pytest.raises(StateUnavailable, match="newer release") as caught:
        await opened(url)
    assert PASSWORD not in str(caught.value)


async def test_a_server_that_keeps_everything_leaves_no_doubts(store, caplog):
    await store.open()
    assert store.doubts == ()
    assert (await state_probe(store, "redis://:secret@host")()).status == "ok"
    assert caplog.records == []


async def test_a_server_that_may_lose_what_it_acknowledged_is_called_lossy(caplog):
    node = RedisNode(appendfsync="everysec", maxmemory_policy="allkeys-lru")
    try:
        node.start()
        store = await opened(node.url)
        check = await state_probe(store, node.url)()
        await store.close()
    finally:
        node.remove()
    assert store.doubts == ("appendfsync is everysec, not always", "maxmemory-policy is allkeys-lru, not noeviction")
    assert (check.status, check.detail) == ("warn", f"redis, lossy: {'; '.join(store.doubts)}")
    (told,) = caplog.records
    assert "is lossy: appendfsync is everysec" in told.getMessage()
    assert PASSWORD not in told.getMessage()


async def test_a_server_whose_settings_may_not_be_read_is_doubted_and_used(redis_node, admin, own):
    await admin.execute_command("ACL", "SETUSER", "limited", "on", ">word", "~*", "+@all", "-config")
    store = await opened(f"redis://limited:word@127.0.0.1:{redis_node.port}/0?prefix={own}")
    assert store.doubts == ("its settings cannot be read (CONFIG GET is not allowed)",)
    assert await store.put(K, b"x") == 1
    await store.close()


async def test_a_cluster_is_refused():
    node = RedisNode(cluster_enabled="yes", cluster_port=str(free_port()))
    try:
        node.start()
        said = await unavailable(RedisStateStore(node.url).open())
    finally:
        node.remove()
    assert "is a Redis cluster" in said


async def test_a_server_whose_memory_is_full_refuses_a_step_whole(store, admin):
    await store.open()
    stream = conversation_key("acme", "talk")
    await store.append(step(stream, 0, "m1"))
    await admin.config_set("maxmemory", 1)
    try:
        said = await unavailable(store.append(step(stream, 1, "m2", outbox=(command("out", "m2"),))))
        assert "its memory is full" in said
        assert (await store.load(stream)).version == 1
    finally:
        await admin.config_set("maxmemory", 0)
    assert await store.append(step(stream, 1, "m2")) == 2


async def test_a_server_that_does_not_answer_is_told_and_its_late_answer_is_nobodys(url, admin):
    store = await patiently(lambda: opened(f"{url}&timeout=1".replace("pool=5", "pool=1")))
    await admin.client_pause(60_000, all=False)  # scripts wait, other commands do not
    try:
        said = await unavailable(store.put(K, b"late"))
        cancelled = asyncio.ensure_future(store.put(K, b"later"))
        await asyncio.wait({cancelled}, timeout=0.1)
        cancelled.cancel()
        await asyncio.wait({cancelled})
    finally:
        await admin.client_unpause()
    assert "does not answer in time" in said
    assert await patiently(lambda: store.get(key("acme", "thing", "two"))) is None
    assert await patiently(store.now_ms) > 1 << 40
    await store.close()


@pytest.mark.crash
async def test_what_was_acknowledged_is_there_after_kill_9_of_the_server_and_nothing_by_halves(store, redis_node):
    await store.open()
    await killed_while_writing(store, redis_node)


@pytest.mark.crash
async def test_a_server_that_is_gone_is_told_without_the_password_and_found_again(store, redis_node):
    await store.open()
    version = await store.put(K, b"x")
    redis_node.kill()
    try:
        for work in (store.put(K, b"y"), store.get(K), RedisStateStore(redis_node.url).open()):
            said = await unavailable(work)
            assert f"127.0.0.1:{redis_node.port}" in said
            assert "check that it runs" in said
            assert PASSWORD not in said
    finally:
        redis_node.start()
    assert await store.put(K, b"z", expect=version) > version


async def test_a_wrong_password_is_told_without_it(redis_node):
    said = await unavailable(RedisStateStore(redis_node.url_of("mistaken")).open())
    assert "check user and password" in said
    assert "mistaken" not in said


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_an_address_makes_the_store(scheme, clock):
    assert isinstance(open_store(f"{scheme}://:secret@db/0?prefix=mine", clock), RedisStateStore)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://:secret@db/0?prefix={x}", "prefix"),
        ("redis://:secret@db/0?pool=0", "pool"),
        ("redis://:secret@db/0?timeout=soon", "timeout"),
        ("redis://:se/cret@db/0", "is written"),
        ("redis://:5/secret@db/0", "is written"),
        ("redis://:secret@db:port/0", "is written"),
        ("redis://:secret@[db/0", "is written"),
        ("redis://:#secret@db/0", "is written"),
        ("redis://", "is written"),
    ],
)
def test_a_wrong_address_is_told_without_its_secrets(url, says):
    with pytest.raises(ConfigError, match=says) as caught:
        RedisStateStore(url)
    assert "cret" not in str(caught.value)


async def test_a_part_of_an_address_that_the_client_does_not_know_is_told_without_its_secrets():
    store = RedisStateStore("redis://:secret@127.0.0.1:1/0?socket_timeout=secret")
    with pytest.raises(ConfigError, match="not understood") as caught:
        await store.open()
    assert "secret" not in str(caught.value)
