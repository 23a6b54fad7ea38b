"""Dead letters where only a real broker shows what happens: the lock, cut connections, many letters, strangers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import Letter, WorkSubscription
from rockbot_messaging.errors import BrokerUnreachable, LettersBusy
from rockbot_messaging.letters import (
    DISCARDED,
    DISCARDED_SECONDS,
    Discard,
    Erase,
    Failure,
    Fate,
    Keep,
    Restore,
    SendOn,
)
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.rabbitmq import RabbitBus
from rockbot_messaging.rabbitmq.topology import Names, shared
from rockbot_messaging.settlement import sent_on
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import depth, message

pytestmark = pytest.mark.rabbitmq

_WORK = WorkSubscription(name="work", patterns=("job.#",), concurrency=1)


async def test_a_thousand_letters_keep_their_order_however_often_they_are_looked_at(harness: RabbitHarness) -> None:
    bus, other = await harness.connect(), await harness.connect()
    ids = await _lay(bus, 1000)
    await other.declare([_WORK])
    for look in range(26):
        reader = (bus, other)[look % 2].dead_letters
        start = (look * 37) % 1000
        if look % 4 == 0:
            visitor = _Keeper()
            assert (await reader.walk("work", visitor)).kept == 1000
            assert visitor.ids == ids
        elif look % 4 == 1:
            assert (await reader.letter("work", ids[start])).id == ids[start]
        else:
            page = await reader.letters("work", limit=3, offset=start)
            assert [letter.id for letter in page] == ids[start : start + 3]
        assert await depth(bus, "work") == 1000
    assert [letter.id for letter in await bus.dead_letters.letters("work", limit=2000)] == ids


async def test_a_connection_that_is_cut_in_a_walk_loses_nothing_and_the_next_walk_sees_all(
    harness: RabbitHarness,
) -> None:
    bus = await harness.connect()
    ids = await _lay(bus, 700)
    for look in range(4):
        shown = 0

        async def decide(letters: Sequence[Letter], stop: int = 100 + 170 * look) -> Sequence[Fate]:
            nonlocal shown
            shown += len(letters)
            if shown > stop:
                bus.cut()
            return [Keep() for _ in letters]

        with pytest.raises(BrokerUnreachable, match="was looked at"):
            await bus.dead_letters.walk("work", decide, batch=50)
        assert shown <= 200 + 170 * look
        left = [letter.id for letter in await bus.dead_letters.letters("work", limit=1000)]
        assert sorted(left) == sorted(ids)
        if look == 0:
            assert left == ids  # never looked at before: not even the order changes


async def test_what_a_cut_walk_had_carried_out_stays_carried_out(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    ids = await _lay(bus, 300)
    shown = 0

    async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
        nonlocal shown
        shown += len(letters)
        if shown > 200:
            bus.cut()
        return [_on(letter) for letter in letters]

    with pytest.raises(BrokerUnreachable):
        await bus.dead_letters.walk("work", decide, batch=100)
    left = {letter.id for letter in await bus.dead_letters.letters("work", limit=1000)}
    assert left >= set(ids[200:])
    assert (await bus.dead_letters.walk("work", _Keeper(_on))).sent == len(left)
    worker = Recorder()
    await bus.subscriber.subscribe(_WORK, worker)
    async with asyncio.timeout(60):
        while set(worker.ids) != set(ids):
            await worker.wait_for(len(worker.seen) + 1)


async def test_a_process_that_is_killed_in_a_walk_lets_go_of_the_queue(harness: RabbitHarness, tmp_path: Path) -> None:
    bus = await harness.connect()
    ids = await _lay(bus, 400)
    script = tmp_path / "walker.py"
    script.write_text(_WALKER, encoding="utf-8")
    walker = subprocess.Popen(
        [sys.executable, str(script), harness.url, harness.namespace], stdout=subprocess.PIPE, env={**os.environ}
    )
    try:
        assert walker.stdout is not None
        assert await asyncio.to_thread(walker.stdout.readline) == b"holding\n"
        look = asyncio.create_task(bus.dead_letters.letters("work", limit=1000))
        assert not (await asyncio.wait((look,), timeout=0.3))[0]
        walker.send_signal(signal.SIGKILL)
        async with asyncio.timeout(60):
            assert [letter.id for letter in await look] == ids
    finally:
        walker.kill()
        walker.communicate()


async def test_who_waits_too_long_for_another_process_is_told_so(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    impatient = RabbitBus(harness.settings(letters_wait=0.2))
    await impatient.open()
    await _lay(bus, 3)
    await impatient.declare([_WORK])
    shown, go_on = asyncio.Event(), asyncio.Event()

    async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
        shown.set()
        await go_on.wait()
        return [Keep() for _ in letters]

    walk = asyncio.create_task(bus.dead_letters.walk("work", decide))
    await shown.wait()
    for look in (impatient.dead_letters.letters("work"), impatient.dead_letters.walk("work", decide)):
        with pytest.raises(LettersBusy, match=rf"another process is at work on .*{harness.namespace}\.work\.dlq"):
            await look
    go_on.set()
    assert (await walk).kept == 3
    assert len(await impatient.dead_letters.letters("work")) == 3
    await impatient.close()


async def test_the_lock_of_a_queue_with_the_longest_name_still_has_a_name(harness: RabbitHarness) -> None:
    bus, other = await harness.connect(), await harness.connect()
    name = ".".join(("n" * 60,) * 3 + ("n" * 40,))
    for one in (bus, other):
        await one.declare([WorkSubscription(name=name, patterns=("job.one",))])
    await bus.dead_letters.bury(name, message("job.one"), Failure(reason="r", queue="q", topic="t", at_ms=1))
    looks = await asyncio.gather(*(one.dead_letters.letters(name) for one in (bus, other) * 3))
    assert [len(letters) for letters in looks] == [1] * 6


async def test_a_stranger_that_holds_letters_does_not_stop_a_walk(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    ids = await _lay(bus, 5)
    channel = await harness.stranger()
    queue = await channel.get_queue(f"{harness.namespace}.work.dlq", ensure=False)
    taken = await queue.get()
    assert taken is not None
    visitor = _Keeper()
    assert (await bus.dead_letters.walk("work", visitor)).kept == 4
    assert visitor.ids == ids[1:]
    await taken.reject(requeue=True)


async def test_letters_larger_than_what_may_be_on_its_way_are_walked_all_the_same(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    body = os.urandom(1024 * 1024)
    ids = await _lay(bus, 40, body=body)
    for _ in range(2):
        visitor = _Keeper()
        walked = await bus.dead_letters.walk("work", visitor)
        assert (walked.kept, visitor.ids) == (40, ids)
        assert visitor.largest < 40  # a batch is cut where it would take too much memory


async def test_more_than_one_channel_gives_back_in_order(
    harness: RabbitHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rockbot_messaging.rabbitmq.letter_look._GROWTH", 1)  # so that few letters need many consumers
    bus = await harness.connect()
    ids = await _lay(bus, 700)
    for _ in range(3):
        assert [letter.id for letter in await bus.dead_letters.letters("work", limit=1000)] == ids
    erased = set(ids[::3])
    walked = await bus.dead_letters.walk("work", _Keeper(lambda one: Erase() if one.id in erased else Keep()), batch=9)
    assert walked.erased == len(erased)
    left = [letter.id for letter in await bus.dead_letters.letters("work", limit=1000)]
    assert left == [one for one in ids if one not in erased]


async def test_a_queue_that_is_slow_to_send_is_waited_for_and_its_order_stays(
    harness: RabbitHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rockbot_messaging.rabbitmq.letter_look._SILENCE", 0.0)  # every wait is too long a silence
    monkeypatch.setattr("rockbot_messaging.rabbitmq.letter_look._SILENCES", 1_000_000)
    bus = await harness.connect()
    ids = await _lay(bus, 600)
    for _ in range(4):
        visitor = _Keeper()
        assert (await bus.dead_letters.walk("work", visitor)).kept == 600
        assert visitor.ids == ids


async def test_hundreds_of_queues_are_listed_on_one_channel(harness: RabbitHarness) -> None:
    names = [f"many.n{number:03d}" for number in range(60)]
    bus = await harness.connect()
    await bus.declare([WorkSubscription(name=name, patterns=(name,)) for name in names[::2]])
    lister = RabbitBus(harness.settings(subscriptions=tuple(names)))
    await lister.open()
    await bus.dead_letters.bury(names[4], message("job.one"), Failure(reason="r", queue="q", topic="t", at_ms=1))
    listed = await lister.dead_letters.queues()
    assert [queue.subscription for queue in listed] == [*names, "unrouted"]
    assert {queue.subscription for queue in listed if queue.depth} == {names[4]}
    await lister.close()


async def test_a_letter_of_the_broker_itself_is_put_away_and_restored_as_it_was(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    await bus.declare([_WORK])
    await bus.publisher.publish(message("job.poison", b"payload", headers={"colour": "red"}))
    await harness.publish_foreign(
        "job.garbage", b"\xff\xfe", content_type="application/cloudevents+json; charset=UTF-8"
    )
    channel = await harness.stranger()
    queue = await channel.get_queue(f"{harness.namespace}.work", ensure=False)
    for _ in range(2):
        taken = await queue.get()
        assert taken is not None
        await taken.reject(requeue=False)
    async with asyncio.timeout(60):
        while await depth(bus, "work") < 2:
            await asyncio.sleep(0.02)
    before = await bus.dead_letters.letters("work")
    assert all(letter.failure.broker.startswith("rejected in") for letter in before)
    assert [letter.envelope.topic for letter in before] == ["job.poison", "job.garbage"]
    assert before[1].problem
    walked = await bus.dead_letters.walk("work", _Keeper(lambda _: Discard("to look at later")))
    assert walked.discarded == 2
    await bus.dead_letters.walk(DISCARDED, _Keeper(lambda _: Restore()))
    assert await bus.dead_letters.letters("work") == before


async def test_a_letter_beside_the_largest_headers_survives_being_put_away(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    await bus.declare([_WORK])
    envelope = message("job.large", headers={f"h{number}": "v" * 10_000 for number in range(11)})
    failure = Failure(
        reason="r" * 5000, queue="q", topic="job.large", at_ms=1, traceback="t" * 100_000, history=("a", "b")
    )
    await bus.dead_letters.bury("work", envelope, failure)
    before = await bus.dead_letters.letters("work")
    assert len(before[0].envelope.headers) == 11
    await bus.dead_letters.discard("work", before[0].id, reason="x" * 10_000)
    await bus.dead_letters.walk(DISCARDED, _Keeper(lambda _: Restore()))
    assert await bus.dead_letters.letters("work") == before


async def test_a_discarded_letter_whose_queue_is_gone_stays_discarded(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    (one,) = await _lay(bus, 1)
    await bus.dead_letters.discard("work", one, reason="r")
    channel = await harness.stranger()
    await channel.queue_delete(f"{harness.namespace}.work.dlq")
    walked = await bus.dead_letters.walk(DISCARDED, _Keeper(lambda _: Restore()))
    assert (walked.restored, walked.refusals) == (0, 1)
    assert f"{harness.namespace}.work.dlq" in walked.refused[0][1]
    assert [letter.id for letter in await bus.dead_letters.letters(DISCARDED)] == [one]


async def test_a_queue_of_discarded_letters_that_was_deleted_is_made_again(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    ids = await _lay(bus, 2)
    channel = await harness.stranger()
    await channel.queue_delete(f"{harness.namespace}.{DISCARDED}")
    for one in ids:
        await bus.dead_letters.discard("work", one, reason="r")
    assert [letter.id for letter in await bus.dead_letters.letters(DISCARDED)] == ids


def test_discarded_letters_expire_after_a_week_and_go_nowhere() -> None:
    (queue,) = [one for one in shared(Names("ns")).queues if one.name == "ns.discarded"]
    assert queue.arguments["x-message-ttl"] == DISCARDED_SECONDS * 1000 == 7 * 86_400_000
    assert not any("dead-letter" in name for name in queue.arguments)


async def test_letters_that_vanish_during_a_walk_do_not_make_it_wait(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    await _lay(bus, 40)
    channel = await harness.stranger()
    queue = await channel.get_queue(f"{harness.namespace}.work.dlq", ensure=False)
    gone: int | None = None

    async def purging(letters: Sequence[Letter]) -> Sequence[Fate]:
        nonlocal gone
        if gone is None:
            gone = (await queue.purge()).message_count or 0
        return [Keep() for _ in letters]

    walked = await bus.dead_letters.walk("work", purging, batch=5)
    assert gone
    assert walked.seen == 40 - gone


def _on(letter: Letter) -> SendOn:
    return SendOn(sent_on(letter, now_ms=letter.failure.at_ms))


class _Keeper:
    """Decides by letter; keeps unless told otherwise."""

    def __init__(self, decide: Callable[[Letter], Fate] = lambda _: Keep()) -> None:
        self.ids: list[str] = []
        self.largest = 0
        self._decide = decide

    async def __call__(self, letters: Sequence[Letter]) -> Sequence[Fate]:
        self.ids += [letter.id for letter in letters]
        self.largest = max(self.largest, len(letters))
        return [self._decide(letter) for letter in letters]


async def _lay(bus: MessageBus, count: int, *, body: bytes = b"{}") -> list[str]:
    await bus.declare([_WORK])
    failure = Failure(reason="no", queue="", topic="job.one", at_ms=1)
    sent = [message("job.one", body) for _ in range(count)]
    await asyncio.gather(*(bus.dead_letters.bury("work", one, failure) for one in sent))
    return [one.message_id for one in sent]


_WALKER = """
import asyncio, sys
from rockbot_messaging.letters import Keep
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings

async def main():
    bus = RabbitBus(RabbitSettings(url=sys.argv[1], namespace=sys.argv[2], subscriptions=("work",)))
    await bus.open()
    seen = 0
    async def decide(letters):
        nonlocal seen
        seen += len(letters)
        if seen >= 200:
            print("holding", flush=True)
            await asyncio.Event().wait()
        return [Keep() for _ in letters]
    await bus.dead_letters.walk("work", decide, batch=50)

asyncio.run(main())
"""
