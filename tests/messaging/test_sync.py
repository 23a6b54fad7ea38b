"""The blocking publisher: from many threads, through interruptions, forks and exits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from rockbot_messaging.composing import outgoing
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BrokerUnreachable, Closed, InvalidTopic, Unroutable
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.ports import Consumption, MessageHandler
from rockbot_messaging.requests import TimedOut
from rockbot_messaging.subscriptions import Subscription, WatchSubscription, WorkSubscription
from rockbot_messaging.sync import SyncPublisher
from rockbot_messaging.verdicts import Ack, Verdict

_WORK = WorkSubscription(name="echo", patterns=("echo.#",), concurrency=100)


class EchoBus:
    """A bus in memory that, once open, has somebody who answers: all in the publisher's own loop."""

    def __init__(self, *, silent: bool = False) -> None:
        self.inner = MemoryBus(broker=MemoryBroker())
        self.publisher = self.inner.publisher
        self.subscriber = self
        self.dead_letters = self.inner.dead_letters
        self.declare = self.inner.declare
        self.health = self.inner.health
        self.seen: list[MessageEnvelope] = []
        self.asked = threading.Event()
        self.silent = silent
        self.opened_in = 0
        self.closed_in = 0

    async def open(self) -> None:
        self.opened_in = threading.get_ident()
        await self.inner.open()
        await self.inner.subscriber.subscribe(_WORK, self.handle)

    async def subscribe(self, subscription: Subscription, handler: MessageHandler) -> Consumption:
        assert isinstance(subscription, WatchSubscription)
        return await self.inner.subscriber.subscribe(subscription, handler)

    async def handle(self, envelope: MessageEnvelope) -> Verdict:
        self.seen.append(envelope)
        self.asked.set()
        if envelope.reply_to and not self.silent:
            reply = outgoing("echo.reply", envelope.body, correlation_id=envelope.correlation_id)
            await self.inner.publisher.send(reply, address=envelope.reply_to)
        return Ack()

    async def close(self) -> None:
        self.closed_in = threading.get_ident()
        await self.inner.close()


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "rockbot publisher"]


def test_messages_go_out_and_requests_are_answered_without_a_loop_of_ones_own() -> None:
    bus = EchoBus()
    with SyncPublisher(lambda: bus) as publisher:
        publisher.publish(outgoing("echo.one", b"1"))
        publisher.publish_many([outgoing("echo.two", b"2"), outgoing("echo.three", b"3")])
        reply = publisher.request(outgoing("echo.ask", b"hello"), timeout=60)
        assert publisher.health().connected
    assert reply.body == b"hello"
    assert [one.body for one in bus.seen] == [b"1", b"2", b"3", b"hello"]
    assert bus.opened_in == bus.closed_in != threading.get_ident()
    assert _threads() == []


def test_many_threads_use_one_publisher_at_the_same_time() -> None:
    bus = EchoBus()
    with SyncPublisher(lambda: bus) as publisher, ThreadPoolExecutor(16) as pool:

        def ask(number: int) -> bytes:
            publisher.publish(outgoing("echo.told", b"x"))
            return publisher.request(outgoing("echo.ask", str(number)), timeout=60).body

        assert list(pool.map(ask, range(200))) == [str(number).encode() for number in range(200)]
    assert len(bus.seen) == 400


def test_errors_are_those_of_the_ports() -> None:
    with SyncPublisher(lambda: EchoBus(silent=True)) as publisher:
        with pytest.raises(Unroutable):
            publisher.publish(outgoing("nobody.home", b""))
        with pytest.raises(Unroutable):
            publisher.request(outgoing("nobody.home", b""), timeout=60)
        with pytest.raises(Unroutable):
            publisher.send(outgoing("echo.one", b""), address="no.queue")
        with pytest.raises(InvalidTopic):
            publisher.publish(MessageEnvelope(topic="not a topic", body=b"", message_id="1", type=""))
        with pytest.raises(TimedOut):
            publisher.request(outgoing("echo.silent", b""), timeout=0.02)
        publisher.publish(outgoing("echo.still", b"works"))


def test_a_broker_that_is_not_there_is_told_when_opening_and_leaves_no_thread() -> None:
    publisher = SyncPublisher("amqp://me:hunter2@127.0.0.1:1/", connect_timeout=0.3)
    with pytest.raises(BrokerUnreachable):
        publisher.open()
    publisher.close()
    assert _threads() == []
    with pytest.raises(ValueError, match="amqp"):
        SyncPublisher("http://host/").open()


def test_closing_twice_is_harmless_and_afterwards_nothing_is_taken() -> None:
    publisher = SyncPublisher("memory://", namespace="shop")
    with pytest.raises(Closed, match="with"):
        publisher.publish(outgoing("echo.one", b""))
    publisher.open()
    publisher.open()
    publisher.close()
    publisher.close()
    for use in (lambda: publisher.publish(outgoing("echo.one", b"")), publisher.open, publisher.health):
        with pytest.raises(Closed):
            use()
    assert _threads() == []


def test_closing_ends_what_other_threads_wait_for() -> None:
    bus = EchoBus(silent=True)
    publisher = SyncPublisher(lambda: bus).open()
    with ThreadPoolExecutor(4) as pool:
        waiting = [
            pool.submit(publisher.request, outgoing("echo.silent", str(number)), timeout=3600) for number in range(4)
        ]
        while len(bus.seen) < 4:
            bus.asked.wait(60)
        publisher.close()
        for one in waiting:
            with pytest.raises(Closed):
                one.result(timeout=60)


def test_closing_while_others_publish_hangs_nobody() -> None:
    for _ in range(20):
        publisher = SyncPublisher(EchoBus).open()
        ended: list[type[BaseException] | None] = []

        def work(publisher: SyncPublisher = publisher, ended: list[type[BaseException] | None] = ended) -> None:
            try:
                while True:
                    publisher.publish(outgoing("echo.one", b""))
            except Closed:
                ended.append(Closed)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        publisher.publish(outgoing("echo.one", b""))
        publisher.close()
        for thread in threads:
            thread.join(60)
        assert ended == [Closed] * 4


def test_an_interruption_while_waiting_leaves_the_publisher_usable() -> None:
    bus = EchoBus(silent=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell begins without it

    def interrupt() -> None:
        bus.asked.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    with SyncPublisher(lambda: bus) as publisher:
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            publisher.request(outgoing("echo.silent", b""), timeout=3600)
        interrupter.join()
        publisher.publish(outgoing("echo.after", b"still here"))
        bus.silent = False
        assert publisher.request(outgoing("echo.ask", b"and this"), timeout=60).body == b"and this"


def test_a_publisher_that_is_dropped_open_warns_and_ends_its_thread() -> None:
    publisher = SyncPublisher(EchoBus).open()
    (thread,) = [one for one in threading.enumerate() if one.name == "rockbot publisher"]
    with pytest.warns(ResourceWarning, match="SyncPublisher"):
        del publisher
    thread.join(60)
    assert not thread.is_alive()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        publisher = SyncPublisher(EchoBus).open()
        publisher.close()
        del publisher


def test_a_publisher_is_not_used_in_its_own_loop() -> None:
    found: list[BaseException] = []

    class Calling(EchoBus):
        async def handle(self, envelope: MessageEnvelope) -> Verdict:
            try:
                publisher.publish(outgoing("echo.again", b""))
            except RuntimeError as exc:
                found.append(exc)
            return await super().handle(envelope)

    bus = Calling()
    with SyncPublisher(lambda: bus) as publisher:
        publisher.publish(outgoing("echo.one", b""))
        assert bus.asked.wait(60)
    assert "wait for itself" in str(found[0])


def _run(program: str) -> subprocess.CompletedProcess[str]:
    header = (
        "import os, sys, threading\n"
        "from rockbot_messaging import outgoing\n"
        "from rockbot_messaging.errors import MessagingError, Unroutable\n"
        "from rockbot_messaging.sync import Forked, SyncPublisher\n"
    )
    return subprocess.run(
        # From 3.12 on Python itself warns of forks beside threads; that is what is tried here.
        [
            sys.executable,
            "-W",
            "error::ResourceWarning",
            "-W",
            "ignore:This process:DeprecationWarning",
            "-c",
            header + program,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


_FORKING: Callable[[str], str] = (
    "publisher = SyncPublisher('memory://').open()\n"
    "child = os.fork()\n"
    "if child == 0:\n"
    "    try:\n"
    "        {}\n"
    "    except MessagingError as exc:\n"
    "        print(type(exc).__name__, exc, flush=True)\n"
    "    publisher.close()\n"
    "    sys.exit(0)\n"
    "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
    "try:\n"
    "    publisher.publish(outgoing('nobody.home', b''))\n"
    "except Unroutable:\n"
    "    print('the parent goes on', code)\n"
    "publisher.close()\n"
).format


@pytest.mark.parametrize("use", ["publisher.publish(outgoing('a.b', b''))", "publisher.open()", "publisher.health()"])
def test_a_forked_child_is_told_and_the_parent_goes_on(use: str) -> None:
    done = _run(_FORKING(use))
    assert done.stderr == ""
    told, parent = done.stdout.splitlines()
    assert told.startswith("Forked")
    assert "fork" in told
    assert parent == "the parent goes on 0"


def test_a_publisher_made_before_a_fork_may_be_opened_in_the_child() -> None:
    done = _run(
        "publisher = SyncPublisher('memory://')\n"
        "child = os.fork()\n"
        "with publisher:\n"
        "    try:\n"
        "        publisher.publish(outgoing('nobody.home', b''))\n"
        "    except Unroutable:\n"
        "        print('fine', flush=True)\n"
        "if child == 0:\n"
        "    sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    assert (done.stdout.split(), done.stderr) == (["fine", "fine"], "")


@pytest.mark.parametrize(
    "end",
    ["", "sys.exit(0)", "threading.Thread(target=lambda: publisher.health()).start()"],
    ids=["runs out", "exits", "with a thread"],
)
def test_an_interpreter_that_ends_with_an_open_publisher_ends_cleanly(end: str) -> None:
    done = _run(f"publisher = SyncPublisher('memory://').open()\nprint('end')\n{end}\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
