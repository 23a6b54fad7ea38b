"""Cases: walks over letters, and what they leave behind when they end early."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest

from rockbot_messaging.errors import LetterNotFound, MessagingError
from rockbot_messaging.letters import (
    DISCARDED,
    UNROUTED,
    Discard,
    Erase,
    Failure,
    Fate,
    Keep,
    Letter,
    Restore,
    SendOn,
    Walked,
)
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.settlement import sent_on
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing.harness import Harness, depth, message
from rockbot_messaging.testing.recorder import Recorder

__all__ = ["LetterWalkCases"]

_WORK = WorkSubscription(name="work", patterns=("job",))


class LetterWalkCases:
    """The port's `walk`."""

    async def test_a_walk_shows_every_letter_once_oldest_first(self, harness: Harness) -> None:
        bus = await harness.connect()
        sent = await _lay(bus, 8)
        visitor = _Visitor()
        walked = await bus.dead_letters.walk("work", visitor, batch=3)
        assert walked == Walked(seen=8, kept=8)
        assert visitor.ids == sent
        assert max(visitor.sizes) <= 3
        assert visitor.letters == await bus.dead_letters.letters("work")
        assert await bus.dead_letters.walk(UNROUTED, visitor) == Walked()
        assert await bus.dead_letters.walk(DISCARDED, visitor) == Walked()
        with pytest.raises(LetterNotFound, match="nowhere"):
            await bus.dead_letters.walk("nowhere", visitor)

    @pytest.mark.parametrize("seed", range(3))
    async def test_any_mixture_of_fates_leaves_exactly_the_rest_in_its_order(self, harness: Harness, seed: int) -> None:
        bus = await harness.connect()
        dice = random.Random(seed)  # noqa: S311
        sent = await _lay(bus, 90)
        first = _Visitor(lambda letter: dice.choice((Keep(), _on(letter), Discard(f"no {letter.id}"), Erase())))
        walked = await bus.dead_letters.walk("work", first, batch=11)
        assert first.ids == sent
        kept, away = first.with_fate(Keep), first.with_fate(Discard)
        assert walked == Walked(
            seen=90,
            kept=len(kept),
            sent=len(first.with_fate(SendOn)),
            discarded=len(away),
            erased=len(first.with_fate(Erase)),
        )
        assert await _ids(bus, "work") == kept
        assert await _ids(bus, DISCARDED) == away

        second = _Visitor(lambda _: dice.choice((Keep(), Restore(), Erase())))
        await bus.dead_letters.walk(DISCARDED, second, batch=11)
        assert second.ids == away
        assert await _ids(bus, "work") == [*kept, *second.with_fate(Restore)]
        assert await _ids(bus, DISCARDED) == second.with_fate(Keep)

        worker = Recorder()
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job",), concurrency=1), worker)
        await worker.wait_finished(walked.sent)
        assert worker.ids == first.with_fate(SendOn)

    async def test_a_batch_is_carried_out_before_the_next_one_is_shown(self, harness: Harness) -> None:
        bus = await harness.connect()
        sent = await _lay(bus, 6)
        worker = Recorder()
        await bus.subscriber.subscribe(_WORK, worker)
        shown = 0

        async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
            nonlocal shown
            await worker.wait_finished(shown)
            assert sorted(worker.ids) == sorted(sent[:shown])
            shown += len(letters)
            return [_on(letter) for letter in letters]

        assert (await bus.dead_letters.walk("work", decide, batch=2)).sent == 6
        assert await depth(bus, "work") == 0

    async def test_what_dies_during_a_walk_is_not_shown_and_lies_behind_the_others(self, harness: Harness) -> None:
        bus = await harness.connect()
        sent = await _lay(bus, 5)
        late: list[str] = []

        async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
            late.extend(await _lay(bus, 1))
            return [Keep() for _ in letters]

        assert (await bus.dead_letters.walk("work", decide, batch=2)).seen == 5
        assert await _ids(bus, "work") == sent + late

    async def test_an_error_of_the_visitor_ends_the_walk_and_what_is_left_stays(self, harness: Harness) -> None:
        bus = await harness.connect()
        sent = await _lay(bus, 7)
        for looked_before in (False, True):
            if looked_before:
                await _lay(bus, 2, into=sent)
                assert await _ids(bus, "work") == sent

            async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
                if any(letter.id == sent[3] for letter in letters):
                    raise RuntimeError("seen enough")
                return [Erase() if letter.id == sent[0] else Keep() for letter in letters]

            with pytest.raises(RuntimeError, match="seen enough"):
                await bus.dead_letters.walk("work", decide, batch=1)
            del sent[0]
            assert await _ids(bus, "work") == sent

    async def test_a_fate_that_makes_no_sense_changes_nothing(self, harness: Harness) -> None:
        bus = await harness.connect()
        sent = await _lay(bus, 3)
        await bus.dead_letters.discard("work", sent.pop(0), reason="for the other queue")
        wrong: list[tuple[str, list[Fate]]] = [
            ("work", [Erase()]),
            ("work", [Erase(), Erase(), Erase()]),
            ("work", [Erase(), Restore()]),
            (DISCARDED, [Discard("again")]),
            (DISCARDED, [SendOn(message("job"))]),
        ]
        for queue, fates in wrong:

            async def decide(_: Sequence[Letter], fates: list[Fate] = fates) -> Sequence[Fate]:
                return fates

            with pytest.raises(ValueError, match=r"fate"):
                await bus.dead_letters.walk(queue, decide)
        assert await _ids(bus, "work") == sent
        assert len(await _ids(bus, DISCARDED)) == 1

    async def test_a_letter_that_cannot_go_stays_and_is_counted_and_the_others_go(self, harness: Harness) -> None:
        bus = await harness.connect(max_body_bytes=1000)
        sent = await _lay(bus, 3)
        mended = _Visitor(lambda letter: _on(letter, b"x" * (1001 if letter.id == sent[1] else 1000)))
        walked = await bus.dead_letters.walk("work", mended)
        assert (walked.seen, walked.sent, walked.refusals) == (3, 2, 1)
        assert walked.refused[0][0] == sent[1]
        assert "1001" in walked.refused[0][1]
        assert await _ids(bus, "work") == [sent[1]]

        lost = await _lay(bus, 3, queue=UNROUTED, topics=("job", "nobody.home", "job"))
        walked = await bus.dead_letters.walk(UNROUTED, _Visitor(_on))
        assert (walked.seen, walked.sent, walked.refusals) == (3, 2, 1)
        assert walked.refused[0][0] == lost[1]
        assert "nobody.home" in walked.refused[0][1]
        assert await _ids(bus, UNROUTED) == [lost[1]]
        worker = Recorder()
        await bus.subscriber.subscribe(_WORK, worker)
        await worker.wait_finished(4)
        assert sorted(worker.ids) == sorted([sent[0], sent[2], lost[0], lost[2]])

    async def test_whoever_looks_during_a_walk_waits_and_sees_everything_that_is_left(self, harness: Harness) -> None:
        bus, other = await harness.connect(), await harness.connect()
        sent = await _lay(bus, 6)
        await other.declare([_WORK])
        shown, go_on = asyncio.Event(), asyncio.Event()

        async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
            shown.set()
            await go_on.wait()
            return [Erase() if letter.id == sent[2] else Keep() for letter in letters]

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            walk = group.create_task(bus.dead_letters.walk("work", decide, batch=2))
            await shown.wait()
            looks = [
                group.create_task(other.dead_letters.letters("work")),
                group.create_task(bus.dead_letters.letters("work")),
            ]
            elsewhere = await other.dead_letters.letters(UNROUTED)
            assert not any(look.done() for look in looks)
            go_on.set()
        assert (walk.result().erased, elsewhere) == (1, [])
        left = [one for one in sent if one != sent[2]]
        assert [[letter.id for letter in look.result()] for look in looks] == [left, left]

    async def test_a_process_that_is_killed_in_a_walk_loses_no_letter(self, harness: Harness) -> None:
        bus = await harness.connect()
        sent = await _lay(bus, 40)
        for fresh in (True, False):
            dying = await harness.connect()
            await dying.declare([_WORK])
            shown, never = asyncio.Event(), asyncio.Event()

            async def decide(
                letters: Sequence[Letter], shown: asyncio.Event = shown, never: asyncio.Event = never
            ) -> Sequence[Fate]:
                if letters[-1].id == sent[19]:
                    shown.set()
                    await never.wait()
                return [Keep() for _ in letters]

            walk = asyncio.create_task(dying.dead_letters.walk("work", decide, batch=10))
            async with asyncio.timeout(60):
                await shown.wait()
                await harness.kill(dying)
                never.set()
                with pytest.raises(MessagingError):
                    await walk
                left = await _ids(bus, "work")
            assert sorted(left) == sorted(sent)
            assert left == sent or not fresh

    async def test_a_sending_walk_that_is_killed_anywhere_loses_no_letter(self, harness: Harness) -> None:
        bus = await harness.connect()
        sent = await _lay(bus, 120)
        for pause in (0, 1, 2, 3, 5, 8, 13, 21):
            dying = await harness.connect()
            await dying.declare([_WORK])
            shown = asyncio.Event()

            async def decide(letters: Sequence[Letter], shown: asyncio.Event = shown) -> Sequence[Fate]:
                shown.set()
                return [_on(letter) for letter in letters]

            walk = asyncio.create_task(dying.dead_letters.walk("work", decide, batch=8))
            async with asyncio.timeout(60):
                await shown.wait()
                for _ in range(pause):
                    await asyncio.sleep(0)
                await harness.kill(dying)
                await asyncio.gather(walk, return_exceptions=True)
        worker = Recorder()
        await bus.subscriber.subscribe(_WORK, worker)
        await bus.dead_letters.walk("work", _Visitor(_on))
        assert await depth(bus, "work") == 0
        async with asyncio.timeout(60):
            while set(worker.ids) != set(sent):
                await worker.wait_for(len(worker.seen) + 1)
        assert all(envelope.attempt == 1 for envelope in worker.envelopes)

    async def test_a_walk_that_is_cancelled_carries_out_the_batch_in_hand(self, harness: Harness) -> None:
        bus = await harness.connect()
        sent = await _lay(bus, 30)
        shown = asyncio.Event()

        async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
            shown.set()
            return [Discard("cancelled") for _ in letters]

        walk = asyncio.create_task(bus.dead_letters.walk("work", decide, batch=10))
        await shown.wait()
        await asyncio.sleep(0)
        walk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await walk
        away = await _ids(bus, DISCARDED)
        assert await _ids(bus, "work") == sent[len(away) :]
        assert away == sent[: len(away)]
        assert len(away) % 10 == 0


class _Visitor:
    """Decides by letter, and remembers."""

    def __init__(self, decide: Callable[[Letter], Fate] = lambda _: Keep()) -> None:
        self.letters: list[Letter] = []
        self.fates: list[Fate] = []
        self.sizes: list[int] = [0]
        self._decide = decide

    async def __call__(self, letters: Sequence[Letter]) -> Sequence[Fate]:
        fates = [self._decide(letter) for letter in letters]
        self.letters += letters
        self.fates += fates
        self.sizes.append(len(letters))
        return fates

    @property
    def ids(self) -> list[str]:
        return [letter.id for letter in self.letters]

    def with_fate(self, kind: type[Fate]) -> list[str]:
        """Ids of the letters that met this fate."""
        return [letter.id for letter, fate in zip(self.letters, self.fates, strict=True) if isinstance(fate, kind)]


def _on(letter: Letter, body: bytes | None = None) -> SendOn:
    return SendOn(sent_on(letter, now_ms=letter.failure.at_ms, body=body))


async def _ids(bus: MessageBus, queue: str) -> list[str]:
    return [letter.id for letter in await bus.dead_letters.letters(queue, limit=1000)]


async def _lay(
    bus: MessageBus, count: int, *, queue: str = "work", topics: Sequence[str] = ("job",), into: list[str] | None = None
) -> list[str]:
    """Bury `count` more letters; returns their ids, oldest first, and appends them to `into`."""
    await bus.declare([_WORK])
    sent = [message(topics[number % len(topics)], f"body {number}".encode()) for number in range(count)]
    for one in sent:
        failure = Failure(reason="no", queue="", topic=one.topic, at_ms=1_700_000_000_000)
        await bus.dead_letters.bury(queue, one, failure)
    ids = [one.message_id for one in sent]
    if into is not None:
        into += ids
    return ids
