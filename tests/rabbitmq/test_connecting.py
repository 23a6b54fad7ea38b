"""What a person reads when the broker cannot be used, and what stays hidden."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from nodes.rabbitmq import RabbitNode, free_port
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import Door
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.errors import BrokerUnreachable, Closed, NotConfirmed
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from rockbot_messaging.testing.harness import message

_PUBLIC = Door.PUBLIC


def _bus(url: str, **changes: Any) -> RabbitBus:
    settings = RabbitSettings(url=url, **{"connect_timeout": 1, "reconnect_interval": 0.1, **changes})
    # Of several members the first one is tried first.
    return RabbitBus(settings, SystemClock(), RandomIds(), chance=lambda: 0.0)


async def test_a_refused_port_is_named_and_the_secret_is_not() -> None:
    port = free_port()
    bus = _bus(f"amqp://someone:s3cret@127.0.0.1:{port}/")
    with pytest.raises(BrokerUnreachable, match=rf"127\.0\.0\.1:{port}.*Connect call failed") as caught:
        await bus.open()
    assert "s3cret" not in str(caught.value)
    await bus.close()


async def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    bus = _bus(f"amqp://guest:guest@127.0.0.1:{port}/")
    with pytest.raises(BrokerUnreachable, match=rf"127\.0\.0\.1:{port}.*no answer in time"):
        await bus.open()
    await bus.close()
    silent.close()


async def test_a_last_attempt_that_is_cut_short_hides_nothing_of_what_was_met_before() -> None:
    met: list[asyncio.StreamWriter] = []

    async def refuse_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(writer)
        if len(met) % 2 == 1:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        else:
            await reader.read()
        writer.close()

    server, loop = await asyncio.start_server(refuse_once, "127.0.0.1", 0), asyncio.get_running_loop()
    port = server.sockets[0].getsockname()[1]
    for _ in range(20):
        met.clear()
        began = loop.time()
        bus = _bus(f"amqp://guest:guest@127.0.0.1:{port}/", connect_timeout=1, reconnect_interval=0.5)
        with pytest.raises(BrokerUnreachable) as caught:
            await bus.open()
        await bus.close()
        if len(met) == 2 and loop.time() - began < 1.5:
            break  # else the machine stood still in one of the attempts
    assert "no answer in time" not in str(caught.value)
    server.close()


async def test_a_server_that_speaks_something_else_is_reported() -> None:
    async def web(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    bus = _bus(f"amqp://guest:guest@127.0.0.1:{port}/")
    with pytest.raises(BrokerUnreachable, match=rf"127\.0\.0\.1:{port}"):
        await bus.open()
    await bus.close()
    server.close()


async def test_what_was_half_opened_is_not_left_to_the_garbage_collector() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.close()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    started: list[str] = []
    loop = asyncio.get_running_loop()
    gc.disable()
    try:
        for listener in (server, silent):
            bus = _bus(f"amqp://guest:guest@127.0.0.1:{listener.sockets[0].getsockname()[1]}/")
            opening = asyncio.create_task(bus.open())
            await asyncio.wait([opening], timeout=0.3)
            opening.cancel()
            await asyncio.wait([opening])
            await bus.close()
        del bus, opening

        def note(loop: asyncio.AbstractEventLoop, coroutine: Any, **_: Any) -> asyncio.Task[Any]:
            started.append(coroutine.__qualname__)
            return asyncio.Task(coroutine, loop=loop)

        loop.set_task_factory(note)
        gc.collect()
    finally:
        loop.set_task_factory(None)
        gc.enable()
        server.close()
        silent.close()
    assert not started


async def test_when_no_member_can_be_reached_each_is_told_with_its_reason() -> None:
    ports = free_port(), free_port()
    bus = _bus(f"amqp://someone:s3cret@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/")
    with pytest.raises(BrokerUnreachable) as caught:
        await bus.open()
    text = str(caught.value)
    assert text.startswith(f"RabbitMQ at 127.0.0.1:{ports[0]}, 127.0.0.1:{ports[1]} (virtual host '/')")
    for port in ports:
        assert f"127.0.0.1:{port}: " in text.partition("cannot be used")[2]
    assert "s3cret" not in text
    await bus.close()


@pytest.mark.rabbitmq
async def test_a_member_whose_name_is_not_known_or_that_is_silent_is_passed_over(rabbit_node: RabbitNode) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    for first in ("no-such-member.invalid", f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"):
        bus = _bus(f"amqp://guest:guest@{first},127.0.0.1:{rabbit_node.port}/", connect_timeout=60)
        await bus.open()
        health = bus.health()
        assert health.connected
        assert health.detail.startswith(f"RabbitMQ at 127.0.0.1:{rabbit_node.port}, virtual host")
        await bus.close()
    silent.close()


@pytest.mark.rabbitmq
async def test_a_wrong_password_is_told_at_once_and_not_shown(rabbit_node: RabbitNode) -> None:
    bus = _bus(f"amqp://guest:wr0ng-s3cret@127.0.0.1:{rabbit_node.port}/", connect_timeout=60)
    with pytest.raises(BrokerUnreachable, match=rf"127\.0\.0\.1:{rabbit_node.port}.*ACCESS_REFUSED") as caught:
        await bus.open()
    assert "wr0ng" not in f"{caught.value!r} {bus.health()} {caught.value.__cause__}"
    await bus.close()


@pytest.mark.rabbitmq
async def test_an_unknown_virtual_host_is_named(rabbit_node: RabbitNode) -> None:
    bus = _bus(f"{rabbit_node.url}nowhere", connect_timeout=60)
    with pytest.raises(BrokerUnreachable, match=r"virtual host 'nowhere'.*NOT_ALLOWED"):
        await bus.open()
    await bus.close()


@pytest.mark.rabbitmq
async def test_a_bus_may_be_opened_again_after_a_failure_and_is_closed_for_good(rabbit_node: RabbitNode) -> None:
    harness = RabbitHarness(rabbit_node.url)
    bus = await harness.connect()
    health = bus.health()
    assert health.connected and "guest:" not in health.detail
    await bus.close()
    await bus.close()
    with pytest.raises(Closed):
        await bus.publisher.publish(message("job.one"))
    with pytest.raises(Closed):
        await bus.dead_letters.queues()


@pytest.mark.rabbitmq
async def test_publishing_without_a_broker_fails_within_the_limit() -> None:
    node = RabbitNode()
    await asyncio.to_thread(node.start)
    try:
        bus = _bus(node.url, connect_timeout=60, confirm_timeout=1)
        await bus.open()
        await asyncio.to_thread(node.kill)
        # The first one may have been written before the end was noticed.
        with pytest.raises((BrokerUnreachable, NotConfirmed), match=str(node.port)):
            await bus.publisher.publish(message("job.one"))
        with pytest.raises(BrokerUnreachable, match=str(node.port)):
            await bus.publisher.publish(message("job.two"))
        assert not bus.health().connected
        await bus.close()
    finally:
        await asyncio.to_thread(node.stop)


@pytest.mark.rabbitmq
async def test_a_blocked_broker_makes_publishers_wait_and_lets_consumers_finish(rabbit_node: RabbitNode) -> None:
    harness = RabbitHarness(rabbit_node.url)
    bus = await harness.connect()
    await bus.publisher.publish(message("job.one"), door=_PUBLIC)
    await asyncio.to_thread(rabbit_node.allow_memory, "1MB")
    try:
        waiting = asyncio.create_task(bus.publisher.publish(message("job.two"), door=_PUBLIC))
        async with asyncio.timeout(60):
            while "blocked" not in bus.health().detail:
                await asyncio.sleep(0)
        third = asyncio.create_task(bus.publisher.publish(message("job.three"), door=_PUBLIC))
        queues = await bus.dead_letters.queues()
        assert queues[-1].depth >= 1
        assert not third.done()
    finally:
        await asyncio.to_thread(rabbit_node.allow_memory)
    async with asyncio.timeout(60):
        await asyncio.gather(waiting, third)
    assert [letter.envelope.topic for letter in await bus.dead_letters.letters("unrouted")] == [
        "job.one",
        "job.two",
        "job.three",
    ]
    await harness.close()
