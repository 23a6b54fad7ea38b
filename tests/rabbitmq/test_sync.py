"""Blocking publishing and requests against a real broker: threads, and connections that break."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import connect, outgoing
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Unroutable
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.rabbitmq import RabbitBus
from rockbot_messaging.requests import Requests, TimedOut
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.sync import SyncPublisher
from rockbot_messaging.testing import Recorder
from rockbot_messaging.verdicts import Ack, Verdict

pytestmark = pytest.mark.rabbitmq

_WORK = WorkSubscription(name="echo", patterns=("echo.#",))


async def _answering(bus: MessageBus) -> list[MessageEnvelope]:
    seen: list[MessageEnvelope] = []

    async def handle(envelope: MessageEnvelope) -> Verdict:
        seen.append(envelope)
        if envelope.reply_to:
            reply = outgoing("echo.reply", envelope.body, correlation_id=envelope.correlation_id)
            with contextlib.suppress(Unroutable):
                await bus.publisher.send(reply, address=envelope.reply_to)
        return Ack()

    await bus.subscriber.subscribe(_WORK, handle)
    return seen


async def test_threads_publish_and_ask_through_one_connection(harness: RabbitHarness) -> None:
    seen = await _answering(await harness.connect())

    def work() -> list[bytes]:
        with SyncPublisher(harness.url, namespace=harness.namespace) as publisher, ThreadPoolExecutor(8) as pool:
            assert publisher.health().connected
            publisher.publish_many([outgoing("echo.told", str(number)) for number in range(20)])
            return list(
                pool.map(
                    lambda number: publisher.request(outgoing("echo.ask", str(number)), timeout=60).body, range(40)
                )
            )

    replies = await asyncio.to_thread(work)
    assert replies == [str(number).encode() for number in range(40)]
    assert len(seen) == 60


async def test_requests_go_on_under_the_same_address_after_the_connection_broke(harness: RabbitHarness) -> None:
    await _answering(await harness.connect())
    bus = await harness.connect()
    async with Requests(bus) as requests:
        address = requests.address
        assert (await requests.request(outgoing("echo.ask", b"before"), timeout=60)).body == b"before"
        bus.cut()
        await _until_consuming_again(bus)
        assert (await requests.request(outgoing("echo.ask", b"after"), timeout=60)).body == b"after"
        assert requests.address == address


async def test_a_reply_that_is_lost_with_its_queue_is_a_timeout_and_no_hang(harness: RabbitHarness) -> None:
    responder = await harness.connect()
    held = Recorder(held=True)
    await responder.subscriber.subscribe(_WORK, held)
    bus = await harness.connect()
    async with Requests(bus) as requests:

        async def ask() -> None:
            while True:
                try:
                    await requests.request(outgoing("echo.ask", b""), timeout=2)
                except TimedOut:
                    if held.seen:
                        raise  # else it was not even sent in time

        waiting = asyncio.create_task(ask())
        (asked,) = await held.wait_for(1)
        bus.cut()
        # The queue goes with its connection: what is sent to it is lost in it, refused, or another request's.
        with contextlib.suppress(Unroutable):
            while not waiting.done():
                reply = outgoing("echo.reply", b"lost", correlation_id="another")
                await responder.publisher.send(reply, address=asked.reply_to or "")
        with pytest.raises(TimedOut):
            await waiting
    held.release()


async def test_connecting_by_address_publishes_to_the_namespace(harness: RabbitHarness) -> None:
    taker = Recorder()
    await (await harness.connect()).subscriber.subscribe(_WORK, taker)
    async with connect(harness.url, namespace=harness.namespace) as bus:
        await bus.publisher.publish(outgoing("echo.told", {"a": 1}, source="shop"))
    (received,) = await taker.wait_for(1)
    assert (received.body, received.source) == (b'{"a":1}', "shop")


async def _until_consuming_again(bus: RabbitBus) -> None:
    """Wait until the loss of the connection was noticed, and then until it is healed."""
    for wanted in (False, True):
        async with asyncio.timeout(60):
            while (bus.health().connected and not bus.health().idle_seconds) is not wanted:
                await asyncio.sleep(0)  # a loss may be healed within milliseconds


async def test_the_documented_line_for_pika_publishes(harness: RabbitHarness) -> None:
    page = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text()
    (program,) = re.findall(r"```sh\npython -c '(import os, pika.*?)'\n```", page, re.DOTALL)
    taker = Recorder()
    await (await harness.connect()).subscriber.subscribe(
        WorkSubscription(name="agent.assistant", patterns=("agent.task.assistant",)), taker
    )
    program = program.replace('"rockbot"', f'"{harness.namespace}"')
    command = [sys.executable, "-W", "error", "-c", program]
    done = await asyncio.to_thread(
        subprocess.run, command, env=os.environ | {"AMQP_URL": harness.url}, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("stored\n", "")
    (received,) = await taker.wait_for(1)
    assert received.body == b'{"input": "What is 6 times 7?"}'


@pytest.mark.parametrize("end", ["", "os._exit(0) if os.fork() == 0 else os.wait()", "sys.exit(0)"])
async def test_a_program_that_never_closes_its_publisher_ends_cleanly_with_everything_stored(
    harness: RabbitHarness, end: str
) -> None:
    taker = Recorder()
    await (await harness.connect()).subscriber.subscribe(_WORK, taker)
    program = (
        "import os, sys\n"
        "from rockbot_messaging import outgoing\n"
        "from rockbot_messaging.sync import SyncPublisher\n"
        f"publisher = SyncPublisher(os.environ['AMQP_URL'], namespace={harness.namespace!r}).open()\n"
        "publisher.publish(outgoing('echo.told', b'1'))\n"
        f"{end}\n"
    )
    if "fork" in end:
        program = program.replace(end, f"{end}\npublisher.publish(outgoing('echo.told', b'2'))")
    # From 3.12 on Python itself warns of forks beside threads.
    forks = "ignore:This process:DeprecationWarning"
    command = [sys.executable, "-W", "error::ResourceWarning", "-W", forks, "-c", program]
    done = await asyncio.to_thread(
        subprocess.run, command, env=os.environ | {"AMQP_URL": harness.url}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    received = await taker.wait_for(2 if "fork" in end else 1)
    assert received[-1].body == (b"2" if "fork" in end else b"1")
