"""Embedded queues: what was confirmed is there after the process is not, however it ended."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from rockbot_messaging.errors import BrokerUnreachable, NotConfirmed, Unroutable
from rockbot_messaging.letters import UNROUTED
from rockbot_messaging.memory import MemoryBroker, MemoryBus, SqliteBusStorage
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import WatchSubscription, WorkSubscription
from rockbot_messaging.testing import FakeClock, Recorder
from rockbot_messaging.testing.harness import buried, depth, message, pass_time_until
from rockbot_messaging.verdicts import DeadLetter, Retry

_WORK = WorkSubscription(
    name="work", patterns=("job.#",), concurrency=1, retry=RetryPolicy(max_attempts=3, delays=(600,))
)


class _Restarting:
    """A host's bus and its file, over several starts, on one clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()

    async def start(self, *, busy_seconds: float = 10) -> MemoryBus:
        bus = MemoryBus(storage=SqliteBusStorage(self.path, busy_seconds=busy_seconds), clock=self.clock)
        await bus.open()
        return bus

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.fixture
def host(tmp_path: Path) -> _Restarting:
    return _Restarting(tmp_path / "state.db")


async def test_ready_messages_go_on_after_a_restart_in_their_order(host: _Restarting) -> None:
    bus = await host.start()
    await bus.declare([_WORK])
    sent = [message("job.one", str(number).encode(), headers={"n": number}) for number in range(30)]
    await bus.publisher.publish_many(sent)
    await bus.close()
    bus, taker = await host.start(), Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    await taker.wait_for(30)
    assert [one.replace(timestamp_ms=0, redelivered=False) for one in taker.envelopes] == sent
    await bus.close()
    bus, taker = await host.start(), Recorder()
    marker = message("job.marker")
    await bus.subscriber.subscribe(_WORK, taker)
    await bus.publisher.publish(marker)
    await taker.wait_for(1)
    assert taker.ids == [marker.message_id]
    await bus.close()


async def test_messages_of_several_starts_lie_side_by_side(host: _Restarting) -> None:
    sent = [message("job.one") for _ in range(3)]
    for one in sent:
        bus = await host.start()
        await bus.declare([_WORK])
        await bus.publisher.publish(one)
        await bus.close()
    bus, taker = await host.start(), Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    await taker.wait_for(3)
    assert taker.ids == [one.message_id for one in sent]
    await bus.close()


async def test_a_broker_whose_last_connection_went_starts_again_from_its_file(host: _Restarting) -> None:
    broker = MemoryBroker(storage=SqliteBusStorage(host.path), clock=host.clock)
    first, second, taker = MemoryBus(broker=broker), MemoryBus(broker=broker), Recorder()
    await first.open()
    await first.declare([_WORK])
    sent, marker = message("job.one"), message("job.marker")
    await first.publisher.publish(sent)
    await first.close()
    await second.open()
    await second.subscriber.subscribe(_WORK, taker)
    await second.publisher.publish(marker)
    await taker.wait_for(2)
    assert taker.ids == [sent.message_id, marker.message_id]
    await second.close()


async def test_what_was_in_hand_comes_again_marked_after_a_restart(host: _Restarting) -> None:
    bus, held = await host.start(), Recorder(held=True)
    await bus.subscriber.subscribe(_WORK, held)
    sent = message("job.one")
    await bus.publisher.publish(sent)
    await held.wait_for(1)
    await bus.kill()
    bus, taker = await host.start(), Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    await taker.wait_for(1)
    assert taker.envelopes[0].redelivered
    assert taker.ids == [sent.message_id]
    await bus.close()


async def test_a_delay_goes_on_where_it_was(host: _Restarting) -> None:
    bus, failing = await host.start(), Recorder([Retry(reason="busy")], clock=host.clock)
    await bus.subscriber.subscribe(_WORK, failing)
    await bus.publisher.publish(message("job.one"))
    await failing.wait_finished(1)
    await bus.close()
    host.clock.advance(599)
    bus, taker, marker = await host.start(), Recorder(clock=host.clock), message("job.marker")
    await bus.subscriber.subscribe(_WORK, taker)
    await bus.publisher.publish(marker)
    await taker.wait_for(1)
    assert taker.ids == [marker.message_id]
    host.clock.advance(1)
    await taker.wait_for(2)
    assert taker.envelopes[1].attempt == 2
    assert len(taker.envelopes[1].history) == 1
    assert taker.seen[1].at_ms - failing.seen[0].at_ms == 600_000
    await bus.close()


async def test_a_delay_that_ended_while_nobody_ran_is_over_at_the_start(host: _Restarting) -> None:
    bus, failing = await host.start(), Recorder([Retry(after=600)])
    await bus.subscriber.subscribe(_WORK, failing)
    await bus.publisher.publish(message("job.one"))
    await failing.wait_finished(1)
    await bus.close()
    host.clock.advance(10_000)
    bus, taker = await host.start(), Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    host.clock.advance(0)
    await taker.wait_for(1)
    await bus.close()


async def test_letters_stay_and_leave_for_good(host: _Restarting) -> None:
    bus = await host.start()
    await bus.subscriber.subscribe(_WORK, Recorder(lambda one: DeadLetter(reason="käse", traceback="line\nline")))
    sent = [message("job.one", b"\xff\x00 broken") for _ in range(3)]
    await bus.publisher.publish_many(sent)
    letters = await buried(bus, "work", 3)
    with pytest.raises(Unroutable):
        await bus.publisher.publish(message("nobody.home"))
    await bus.close()

    bus, taker = await host.start(), Recorder()
    assert await bus.dead_letters.letters("work") == letters
    assert await depth(bus, UNROUTED) == 1
    await bus.declare([_WORK])
    await bus.dead_letters.discard("work", sent[0].message_id, reason="test")
    await bus.dead_letters.replay("work", sent[1].message_id, body=b"mended")
    await bus.close()

    bus = await host.start()
    assert [letter.id for letter in await bus.dead_letters.letters("work")] == [sent[2].message_id]
    await bus.subscriber.subscribe(_WORK, taker)
    await taker.wait_for(1)
    assert [(one.message_id, one.body) for one in taker.envelopes] == [(sent[1].message_id, b"mended")]
    await bus.close()


async def test_what_cannot_be_read_stays_unreadable(host: _Restarting) -> None:
    bus = await host.start()
    await bus.declare([_WORK])
    await bus.broker.publish_garbage("job.one", problem="no idea")
    await bus.close()
    bus, taker = await host.start(), Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    (letter,) = await buried(bus, "work", 1)
    assert letter.problem == "no idea"
    await bus.close()


async def test_watchers_leave_nothing_in_the_file(host: _Restarting) -> None:
    bus, watcher = await host.start(), Recorder()
    await bus.subscriber.subscribe(WatchSubscription(name="news", patterns=("news",)), watcher)
    await bus.publisher.publish(message("news"))
    await watcher.wait_finished(1)
    await bus.close()
    assert _rows(host.path) == 0


async def test_the_file_is_shared_with_other_tables(host: _Restarting) -> None:
    other = sqlite3.connect(host.path, isolation_level=None)
    other.execute("PRAGMA journal_mode=WAL")
    other.execute("CREATE TABLE records (id INTEGER)")
    bus = await host.start()
    await bus.declare([_WORK])
    await bus.publisher.publish(message("job.one"))
    other.execute("INSERT INTO records VALUES (1)")
    other.close()
    await bus.publisher.publish(message("job.two"))
    await bus.close()
    assert _rows(host.path) == 2


async def test_a_second_process_is_told_that_the_queues_are_in_use(host: _Restarting) -> None:
    bus = await host.start()
    with pytest.raises(BrokerUnreachable, match=r"state\.db are in use by another process"):
        await host.start()
    await bus.close()
    await (await host.start()).close()


async def test_a_file_that_is_none_of_ours_is_refused_with_its_name(host: _Restarting) -> None:
    host.path.write_bytes(b"this is no database" * 100)
    with pytest.raises(BrokerUnreachable, match=r"state\.db cannot be opened"):
        await host.start()
    host.path.unlink()
    host.path.mkdir()
    with pytest.raises(BrokerUnreachable, match=r"state\.db cannot be opened"):
        await host.start()


async def test_a_publish_that_cannot_be_written_is_not_confirmed(host: _Restarting) -> None:
    bus, taker = await host.start(busy_seconds=0), Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    blocker = sqlite3.connect(host.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(NotConfirmed, match=r"state\.db.*locked"):
        await bus.publisher.publish(message("job.lost"))
    blocker.execute("ROLLBACK")
    blocker.close()
    kept = message("job.kept")
    await bus.publisher.publish(kept)
    await taker.wait_finished(1)
    assert taker.ids == [kept.message_id]
    await bus.close()


async def test_a_change_that_is_refused_spares_its_neighbours(host: _Restarting) -> None:
    bus = await host.start()
    await bus.declare([_WORK, WorkSubscription(name="refused", patterns=("refused",))])
    other = sqlite3.connect(host.path, isolation_level=None)
    other.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON bus_messages WHEN NEW.queue LIKE '%refused' "
        "BEGIN SELECT RAISE(ABORT, 'no room for this'); END"
    )
    other.close()
    topics = ["job.one", "refused", "job.two", "refused", "job.three"]
    results = await asyncio.gather(*(bus.publisher.publish(message(topic)) for topic in topics), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), NotConfirmed, type(None), NotConfirmed, type(None)]
    await bus.publisher.publish(message("job.four"))
    await bus.close()
    assert _rows(host.path) == 4


async def test_a_verdict_that_cannot_be_written_brings_the_message_again(host: _Restarting) -> None:
    bus, taker = await host.start(busy_seconds=0), Recorder(held=True)
    await bus.subscriber.subscribe(_WORK, taker)
    sent = message("job.one")
    await bus.publisher.publish(sent)
    await taker.wait_for(1)
    blocker = sqlite3.connect(host.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    taker.release()
    await taker.wait_finished(1)
    for _ in range(2):  # The verdict is asked for at the latest while the first one is being refused.
        await _written(bus)
    blocker.execute("ROLLBACK")
    blocker.close()
    await pass_time_until(host, lambda: len(taker.seen) == 2)
    assert taker.envelopes[1].redelivered
    await bus.close()
    assert _rows(host.path) == 0


async def _written(bus: MemoryBus) -> None:
    """Return once the storage has dealt with all that it was asked for before."""
    with pytest.raises(NotConfirmed):
        await bus.publisher.publish(message("job.also"))


_PROGRAM = """
import asyncio, sys
from rockbot_messaging import DeadLetter, Ack, MessageEnvelope, Retry, WorkSubscription
from rockbot_messaging.memory import MemoryBus, SqliteBusStorage

def say(what):
    sys.stdout.write(what + "\\n")
    sys.stdout.flush()

async def main():
    bus = MemoryBus(storage=SqliteBusStorage(sys.argv[1]))
    await bus.open()
    never = asyncio.Event()
    async def handler(envelope):
        if envelope.topic == "job.ack":
            say("handled " + envelope.message_id)
            return Ack()
        if envelope.topic == "job.delay":
            return Retry(after=3600, reason="later")
        if envelope.topic == "job.dead":
            return DeadLetter(reason="never")
        await never.wait()
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",)), handler)
    await bus.declare([WorkSubscription(name="idle", patterns=("idle",))])
    async def stream(topic):
        for number in range(100_000):
            one = MessageEnvelope(topic=topic, body=b"x" * 300, message_id=f"{topic}-{number}", type="t")
            await bus.publisher.publish(one)
            say("confirmed " + one.message_id)
    await asyncio.gather(*(stream(topic) for topic in ("job.ack", "job.delay", "job.dead", "idle")))

asyncio.run(main())
"""


@pytest.mark.crash
@pytest.mark.parametrize("lines", [20, 100, 400])
async def test_nothing_confirmed_is_lost_when_the_process_is_killed(host: _Restarting, lines: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(host.path)], stdout=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
    complete = [line.split() for line in said if line.endswith("\n")]
    confirmed = {what for kind, what in complete if kind == "confirmed"}
    handled = {what for kind, what in complete if kind == "handled"}

    bus, workers, idlers = await host.start(), Recorder(), Recorder()
    dead = {letter.id for letter in await bus.dead_letters.letters("work", limit=1_000_000)}
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",)), workers)
    await bus.subscriber.subscribe(WorkSubscription(name="idle", patterns=("idle",)), idlers)
    host.clock.advance(400 * 24 * 3600)
    for taker, marker in ((workers, message("job.marker")), (idlers, message("idle"))):
        await bus.publisher.publish(marker)
        while marker.message_id not in taker.ids:
            await taker.wait_for(len(taker.seen) + 1)
    recovered = {*workers.ids, *idlers.ids, *dead}
    assert confirmed
    assert confirmed - handled <= recovered
    assert all(one.startswith("job.dead") for one in dead)
    delayed = [one for one in workers.envelopes if one.message_id.startswith("job.delay") and one.attempt == 2]
    assert all(len(one.history) == 1 for one in delayed)
    await bus.close()


def _rows(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        (count,) = connection.execute("SELECT count(*) FROM bus_messages").fetchone()
    finally:
        connection.close()
    assert isinstance(count, int)
    return count
