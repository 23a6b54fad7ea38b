"""Dead letters of the provider inside the process: their time, their file, and who may look."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Closed, LettersBusy, NotConfirmed
from rockbot_messaging.letters import (
    DISCARDED,
    DISCARDED_SECONDS,
    Discard,
    Failure,
    Fate,
    Keep,
    Letter,
    Restore,
    SendOn,
)
from rockbot_messaging.memory import MemoryBroker, MemoryBus, SqliteBusStorage
from rockbot_messaging.memory.storage import Row
from rockbot_messaging.packing import pack
from rockbot_messaging.ports import LetterVisitor
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock, Recorder
from rockbot_messaging.testing.harness import buried, message
from rockbot_messaging.verdicts import DeadLetter

_WORK = WorkSubscription(name="work", patterns=("job.#",), concurrency=2)
_FAILURE = Failure(reason="no", queue="rockbot.work", topic="job.one", at_ms=1)


async def _bus(path: Path | None = None, clock: FakeClock | None = None) -> MemoryBus:
    bus = MemoryBus(clock=clock or FakeClock(), storage=SqliteBusStorage(path) if path else None)
    await bus.open()
    return bus


async def _lay(bus: MemoryBus, count: int) -> list[str]:
    await bus.declare([_WORK])
    sent = [message("job.one", f"{number}".encode()) for number in range(count)]
    for one in sent:
        await bus.dead_letters.bury("work", one, _FAILURE)
    return [one.message_id for one in sent]


async def _ids(bus: MemoryBus, queue: str) -> list[str]:
    return [letter.id for letter in await bus.dead_letters.letters(queue, limit=1000)]


def _all(fate: Fate) -> LetterVisitor:
    async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
        return [fate] * len(letters)

    return decide


async def test_a_discarded_letter_is_kept_for_a_week_and_not_longer() -> None:
    clock = FakeClock()
    bus = await _bus(clock=clock)
    ids = await _lay(bus, 2)
    await bus.dead_letters.discard("work", ids[0], reason="first")
    clock.advance(DISCARDED_SECONDS / 2)
    await bus.dead_letters.discard("work", ids[1], reason="second")
    clock.advance(DISCARDED_SECONDS / 2 - 1)
    assert await _ids(bus, DISCARDED) == ids
    clock.advance(1)
    assert await _ids(bus, DISCARDED) == [ids[1]]
    clock.advance(DISCARDED_SECONDS)
    assert (await bus.dead_letters.walk(DISCARDED, _all(Restore()))).seen == 0
    assert await _ids(bus, "work") == []


@pytest.mark.parametrize("declared", [True, False])
async def test_discarded_and_buried_letters_survive_the_process(tmp_path: Path, declared: bool) -> None:
    path, clock = tmp_path / "state.db", FakeClock()
    bus = await _bus(path, clock)
    ids = await _lay(bus, 3)
    before = await bus.dead_letters.letters("work")
    await bus.dead_letters.walk("work", _all(Discard("to look at later")))
    await bus.kill()

    again = await _bus(path, clock)
    if declared:
        await again.declare([_WORK])
    lies = await again.dead_letters.letters(DISCARDED)
    assert [(letter.id, letter.discarded and letter.discarded.reason) for letter in lies] == [
        (one, "to look at later") for one in ids
    ]
    await again.dead_letters.walk(DISCARDED, _all(Restore()))
    assert await again.dead_letters.letters("work") == before
    await again.close()

    third = await _bus(path, clock)
    assert await third.dead_letters.letters("work") == before
    assert await _ids(third, DISCARDED) == []
    await third.close()


async def test_a_letter_whose_time_was_over_while_no_process_ran_is_gone_from_the_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "state.db", FakeClock()
    bus = await _bus(path, clock)
    (one,) = await _lay(bus, 1)
    await bus.dead_letters.discard("work", one, reason="r")
    await bus.close()
    clock.advance(DISCARDED_SECONDS)
    again = await _bus(path, clock)
    assert await _ids(again, DISCARDED) == []
    await again.close()
    with contextlib.closing(sqlite3.connect(path)) as rows, rows:
        assert rows.execute("SELECT count(*) FROM bus_messages").fetchone() == (0,)


async def test_letters_lie_in_the_order_of_their_deaths_after_a_restart_too(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    bus = await _bus(path)
    slow, done = asyncio.Event(), asyncio.Event()

    async def refuse(envelope: MessageEnvelope) -> DeadLetter:
        await (slow.wait() if envelope.body == b"slow" else asyncio.sleep(0))
        done.set()
        return DeadLetter(reason="no")

    await bus.subscriber.subscribe(_WORK, refuse)
    first, second = message("job.one", b"slow"), message("job.one", b"quick")
    await bus.publisher.publish_many([first, second])
    await buried(bus, "work", 1)
    slow.set()
    letters = await buried(bus, "work", 2)
    assert [letter.id for letter in letters] == [second.message_id, first.message_id]
    await bus.close()
    again = await _bus(path)
    assert await again.dead_letters.letters("work") == letters
    await again.close()


async def test_a_file_of_an_earlier_release_opens_and_its_letters_can_be_worked(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await _bus(path)).close()
    sent = message("job.one", b"old")
    failure = {"reason": "old", "queue": "rockbot.work", "topic": "job.one", "at_ms": 5, "attempt": 2}
    failure |= {"error_type": "E", "traceback": "", "history": ["one"], "broker": ""}
    newer = {**failure, "a_field_of_a_newer_release": 1}
    with contextlib.closing(sqlite3.connect(path)) as rows, rows:
        for number, fields in ((1, failure), (2, newer)):
            values = (number, "rockbot.work", "dead", None, pack(sent), json.dumps(fields), "")
            rows.execute("INSERT INTO bus_messages VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    bus = await _bus(path)
    letters = await bus.dead_letters.letters("work")
    assert [(letter.id, letter.failure.history, letter.failure.handler) for letter in letters] == [
        (sent.message_id, ("one",), "")
    ] * 2
    await bus.dead_letters.walk("work", _all(Discard("r")))
    await bus.dead_letters.walk(DISCARDED, _all(Restore()))
    assert await bus.dead_letters.letters("work") == letters
    await bus.close()


async def test_who_waits_too_long_for_another_look_is_told_so() -> None:
    broker = MemoryBroker(clock=FakeClock())
    bus, impatient = MemoryBus(broker=broker), MemoryBus(broker=broker, letters_wait=0.05)
    await bus.open()
    await impatient.open()
    await _lay(bus, 1)
    shown, go_on = asyncio.Event(), asyncio.Event()

    async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
        shown.set()
        await go_on.wait()
        return [Keep() for _ in letters]

    walk = asyncio.create_task(bus.dead_letters.walk("work", decide))
    await shown.wait()
    with pytest.raises(LettersBusy, match=r"rockbot\.work\.dlq"):
        await impatient.dead_letters.letters("work")
    assert await impatient.dead_letters.letters("unrouted") == []
    go_on.set()
    await walk
    assert len(await impatient.dead_letters.letters("work")) == 1


@pytest.mark.parametrize("how", ["kill", "close"])
async def test_a_bus_that_ends_in_a_walk_lets_go_and_carries_out_nothing_more(how: str) -> None:
    broker = MemoryBroker(clock=FakeClock())
    dying, bus = MemoryBus(broker=broker), MemoryBus(broker=broker)
    await dying.open()
    await bus.open()
    ids = await _lay(bus, 2)
    shown, go_on = asyncio.Event(), asyncio.Event()

    async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
        shown.set()
        await go_on.wait()
        return [Discard("too late") for _ in letters]

    walk = asyncio.create_task(dying.dead_letters.walk("work", decide))
    await shown.wait()
    await getattr(dying, how)()
    async with asyncio.timeout(60):
        assert await _ids(bus, "work") == ids
    go_on.set()
    with pytest.raises(Closed):
        await walk
    assert await _ids(bus, "work") == ids
    assert await _ids(bus, DISCARDED) == []


class _Unwilling:
    """A storage that refuses to write one message."""

    def __init__(self, storage: SqliteBusStorage) -> None:
        self._storage = storage
        self.refused = b"nothing"

    async def open(self) -> list[Row]:
        return await self._storage.open()

    def apply(self, puts: Sequence[Row], removals: Sequence[int]) -> asyncio.Future[None]:
        if any(row.envelope.endswith(self.refused) for row in puts):
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            failed.set_exception(NotConfirmed("the disk is full"))
            return failed
        return self._storage.apply(puts, removals)

    async def close(self) -> None:
        await self._storage.close()


async def test_a_letter_that_cannot_be_written_stays_and_the_others_go(tmp_path: Path) -> None:
    storage = _Unwilling(SqliteBusStorage(tmp_path / "state.db"))
    bus = MemoryBus(clock=FakeClock(), storage=storage)
    await bus.open()
    ids = await _lay(bus, 5)
    storage.refused = b"\n3"

    async def on(letters: Sequence[Letter]) -> Sequence[Fate]:
        return [SendOn(letter.envelope) for letter in letters]

    walked = await bus.dead_letters.walk("work", on)
    assert (walked.seen, walked.sent, walked.refused) == (5, 4, ((ids[3], "the disk is full"),))
    assert await _ids(bus, "work") == [ids[3]]
    storage.refused = b"nothing"
    assert (await bus.dead_letters.walk("work", on)).sent == 1
    worker = Recorder()
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",), concurrency=1), worker)
    await worker.wait_finished(5)
    assert worker.ids == [ids[0], ids[1], ids[2], ids[4], ids[3]]
    await bus.close()
