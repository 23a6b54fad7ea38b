"""Ten thousand dead letters, or (`ROCKBOT_TEST_FULL=1`) a hundred thousand: all are there, in order, in bounded memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import Letter, WorkSubscription
from rockbot_messaging.letters import DISCARDED, Discard, Failure, Fate, Keep, Restore, SendOn
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.settlement import sent_on
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import message

pytestmark = [pytest.mark.alone, pytest.mark.rabbitmq, pytest.mark.timeout(1800)]

_COUNT = 100_000 if os.environ.get("ROCKBOT_TEST_FULL") == "1" else 10_000
_WORK = WorkSubscription(name="work", patterns=("job",), prefetch=500)
_PAD = b" " * 1024
#: Bytes that a process may grow by while it works on letters, however many there are.
_GROWTH = 100 * 1024 * 1024


def _resident() -> int:
    """Bytes of this process that lie in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class _Stopwatch:
    """Prints how long a step took; figures are for people, only memory is asserted."""

    def __init__(self) -> None:
        self._memory = _resident()
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, what: str, letters: int) -> None:
        seconds, cpu = time.perf_counter() - self._started, time.process_time() - self._cpu
        grown = _resident() - self._memory
        print(
            f"{what}: {letters} letters in {seconds:.1f} s ({cpu:.1f} s of them ours), {letters / seconds:.0f}/s, "
            f"grown {grown / 2**20:.0f} MiB"
        )
        assert grown < _GROWTH, what
        self._started, self._cpu = time.perf_counter(), time.process_time()


class _Reader:
    """Keeps every letter, and checks that they come in order."""

    def __init__(self) -> None:
        self.seen = 0

    async def __call__(self, letters: Sequence[Letter]) -> Sequence[Fate]:
        numbers = [int(letter.envelope.body) for letter in letters]
        assert numbers == list(range(self.seen, self.seen + len(letters)))
        self.seen += len(letters)
        return [Keep()] * len(letters)


async def _fill(bus: MessageBus, queue: str) -> None:
    failure = Failure(reason="on purpose", queue=queue, topic="job", at_ms=1)
    for start in range(0, _COUNT, 500):
        bodies = (str(number).encode() + _PAD for number in range(start, min(start + 500, _COUNT)))
        await asyncio.gather(*(bus.dead_letters.bury("work", message("job", body), failure) for body in bodies))


async def _depth(bus: MessageBus) -> int:
    (depth,) = [queue.depth for queue in await bus.dead_letters.queues() if queue.subscription == "work"]
    return depth


async def test_very_many_letters_are_read_put_away_restored_and_sent_on(harness: RabbitHarness) -> None:
    bus = await harness.connect()
    await bus.declare([_WORK])
    await _fill(bus, f"{harness.namespace}.work")
    letters = bus.dead_letters
    watch = _Stopwatch()

    for what in ("first walk", "second walk"):
        reader = _Reader()
        walked = await letters.walk("work", reader)
        assert (walked.seen, walked.kept, reader.seen) == (_COUNT, _COUNT, _COUNT)
        watch.lap(what, _COUNT)
    page = await letters.letters("work", limit=50, offset=_COUNT - 50)
    assert [int(letter.envelope.body) for letter in page] == list(range(_COUNT - 50, _COUNT))
    watch.lap("last page", _COUNT)
    assert int((await letters.letter("work", page[0].id)).envelope.body) == _COUNT - 50
    watch.lap("one letter", _COUNT)
    assert await _depth(bus) == _COUNT

    async def every_tenth(shown: Sequence[Letter]) -> Sequence[Fate]:
        return [Keep() if int(letter.envelope.body) % 10 else Discard("scale") for letter in shown]

    walked = await letters.walk("work", every_tenth)
    assert (walked.seen, walked.discarded) == (_COUNT, _COUNT // 10)
    watch.lap("discarding a tenth", _COUNT)

    async def restored(shown: Sequence[Letter]) -> Sequence[Fate]:
        assert all(letter.discarded for letter in shown)
        return [Restore()] * len(shown)

    walked = await letters.walk(DISCARDED, restored)
    assert (walked.restored, await _depth(bus)) == (_COUNT // 10, _COUNT)
    watch.lap("restoring a tenth", _COUNT // 10)

    async def on(shown: Sequence[Letter]) -> Sequence[Fate]:
        return [SendOn(sent_on(letter, now_ms=harness.clock.now_ms())) for letter in shown]

    walked = await letters.walk("work", on)
    assert (walked.seen, walked.sent, await _depth(bus)) == (_COUNT, _COUNT, 0)
    watch.lap("sending on", _COUNT)

    worker = Recorder()
    await bus.subscriber.subscribe(_WORK, worker)
    await worker.wait_finished(_COUNT, timeout=240)
    assert len({envelope.message_id for envelope in worker.envelopes}) == _COUNT
    assert {int(envelope.body) for envelope in worker.envelopes} == set(range(_COUNT))
