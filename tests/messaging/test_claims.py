"""Large bodies lie aside: the whole conformance suite with nearly every body claimed, and what is special about claims."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, final

import pytest
from messaging.test_memory_contract import MemoryHarness

from rockbot_messaging.artifacts import ArtifactMissing, ArtifactStore, ArtifactsUnavailable, MemoryArtifacts, Reference
from rockbot_messaging.claims import ClaimCheck, claim_check_bus
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import BodyTooLarge, NotConfirmed
from rockbot_messaging.layers import LayeredBus
from rockbot_messaging.letters import Discard, Failure, Fate, Keep, Letter, SendOn
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.notices import STALLED_TYPE
from rockbot_messaging.ports import Door, MessageBus
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import WatchSubscription, WorkSubscription
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.contract import BusContract
from rockbot_messaging.testing.harness import DEFAULT_BODY_LIMIT, buried, message, pass_time_until
from rockbot_messaging.verdicts import DeadLetter, Retry

_WORK = WorkSubscription(name="work", patterns=("job.#",), retry=RetryPolicy(max_attempts=2, delays=(1,)))
_LARGE = b"a body of more than ten bytes"


@final
class ClaimHarness(MemoryHarness):
    """Connections whose bodies above ten bytes lie in one shared place."""

    def __init__(self) -> None:
        super().__init__()
        self.artifacts = MemoryArtifacts()
        self.measures = Counters()

    async def connect(self, *, max_body_bytes: int = DEFAULT_BODY_LIMIT) -> Any:
        inner = await super().connect(max_body_bytes=max_body_bytes)
        return self.around(inner, self.artifacts, max_body_bytes=max_body_bytes)

    def around(
        self, inner: MessageBus, artifacts: ArtifactStore, *, max_body_bytes: int = DEFAULT_BODY_LIMIT
    ) -> LayeredBus:
        return claim_check_bus(
            inner,
            artifacts,
            threshold=10,
            max_body_bytes=max_body_bytes,
            clock=self.clock,
            source="claims",
            measures=self.measures,
        )

    async def raw(self) -> MemoryBus:
        """A connection that shows what really lies in the broker."""
        return await super().connect()

    async def kill(self, bus: MessageBus) -> None:
        assert isinstance(bus, LayeredBus)
        await super().kill(bus.inner)


@pytest.fixture
async def harness() -> AsyncIterator[ClaimHarness]:
    harness = ClaimHarness()
    yield harness
    await harness.close()


class TestClaimedBodies(BusContract):
    """The harness is this module's."""


@final
class AwayArtifacts:
    """A store that is away until told otherwise."""

    def __init__(self, inner: ArtifactStore) -> None:
        self.inner = inner
        self.away = True

    async def put(self, body: bytes, *, tenant: str = "default") -> str:
        if self.away:
            raise ArtifactsUnavailable("the volume is not mounted")
        return await self.inner.put(body, tenant=tenant)

    async def get(self, reference: str, *, tenant: str = "default") -> bytes:
        if self.away:
            raise ArtifactsUnavailable("the volume is not mounted")
        return await self.inner.get(reference, tenant=tenant)


async def test_only_bodies_above_the_threshold_are_claimed_and_only_behind_the_commands_door(
    harness: ClaimHarness,
) -> None:
    bus, raw = await harness.connect(), await harness.raw()
    seen = Recorder()
    await raw.subscriber.subscribe(_WORK, seen)
    replies = Recorder()
    reader = await raw.subscriber.subscribe(WatchSubscription(name="replies"), replies)
    await bus.publisher.publish(message("job.small", b"x" * 10))
    await bus.publisher.publish(message("job.large", b"x" * 11))
    await bus.publisher.publish(message("job.public", b"x" * 11), door=Door.PUBLIC)
    await bus.publisher.send(message("job.answer", b"x" * 11), address=reader.address)
    small, large, public = await seen.wait_for(3)
    (answer,) = await replies.wait_for(1)
    assert (small.body, small.claim) == (b"x" * 10, None)
    assert (large.body, large.claim) == (b"", str(Reference.of(b"x" * 11)))
    assert (public.body, public.claim) == (b"x" * 11, None)
    assert (answer.body, answer.claim) == (b"x" * 11, None)
    assert harness.measures.value(Names.CLAIMS, direction="out") == 1


async def test_a_claim_that_is_passed_on_to_a_stranger_goes_whole(harness: ClaimHarness) -> None:
    bus, raw = await harness.connect(), await harness.raw()
    replies = Recorder()
    reader = await raw.subscriber.subscribe(WatchSubscription(name="replies"), replies)
    claim = await harness.artifacts.put(_LARGE)
    await bus.publisher.send(message("job.answer", b"", claim=claim), address=reader.address)
    (answer,) = await replies.wait_for(1)
    assert (answer.body, answer.claim) == (_LARGE, None)


async def test_handlers_see_whole_bodies_and_copies_for_retries_and_letters_stay_small(harness: ClaimHarness) -> None:
    bus, raw = await harness.connect(), await harness.raw()
    taker = Recorder([Retry(reason="once more"), DeadLetter(reason="no")])
    await bus.subscriber.subscribe(_WORK, taker)
    sent = message("job.large", _LARGE)
    await bus.publisher.publish(sent)
    await pass_time_until(harness, lambda: taker.finished >= 2)
    assert [(one.body, one.claim, one.attempt) for one in taker.envelopes] == [(_LARGE, None, 1), (_LARGE, None, 2)]
    (letter,) = await buried(raw, "work", 1)
    assert (letter.envelope.body, letter.envelope.claim) == (b"", str(Reference.of(_LARGE)))
    (shown,) = await bus.dead_letters.letters("work")
    assert (shown.envelope.body, shown.envelope.claim, shown.problem) == (_LARGE, None, "")
    assert (await bus.dead_letters.letter("work", letter.id)).envelope.body == _LARGE
    assert harness.measures.value(Names.CLAIMS, direction="in") >= 2


async def test_a_missing_body_is_a_dead_letter_that_names_the_digest_and_its_turn_is_told(
    harness: ClaimHarness,
) -> None:
    bus, raw = await harness.connect(), await harness.raw()
    taker, turn = Recorder(), Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    await bus.subscriber.subscribe(WatchSubscription(name="turn", patterns=("turn.step",)), turn)
    address = ReturnAddress("turn.step", "token-1")
    await bus.publisher.publish(message("job.large", _LARGE, return_address=address))
    await taker.wait_finished(1)
    harness.artifacts.stored.clear()
    await bus.publisher.publish(message("job.small", b"small"))
    claim = str(Reference.of(_LARGE))
    lost = message("job.large", b"", claim=claim, return_address=address)
    await raw.publisher.publish(lost)
    (letter,) = await buried(bus, "work", 1)
    assert letter.failure.error_type == ArtifactMissing.__name__
    assert Reference.of(_LARGE).digest in letter.failure.reason
    assert Reference.of(_LARGE).digest in letter.problem
    assert letter.envelope.claim == claim
    (told,) = await turn.wait_for(1)
    assert (told.type, told.return_address, told.source) == (STALLED_TYPE, address, "claims")
    assert json.loads(told.body)["message_id"] == lost.message_id
    assert len(taker.seen) == 2


async def test_other_bytes_than_the_digest_says_are_a_dead_letter(harness: ClaimHarness) -> None:
    @final
    class Lying:
        async def put(self, body: bytes, *, tenant: str = "default") -> str:
            return str(Reference.of(body))

        async def get(self, reference: str, *, tenant: str = "default") -> bytes:
            return b"other bytes of any size"

    bus = harness.around(await harness.raw(), Lying())
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    await bus.publisher.publish(message("job.large", _LARGE))
    (letter,) = await buried(bus, "work", 1)
    assert "damaged" in letter.failure.reason
    assert Reference.of(_LARGE).digest in letter.failure.reason
    assert taker.seen == []


@pytest.mark.parametrize("claim", ["nonsense", "sha256:../../etc/passwd;3", "sha256:" + "0" * 64])
async def test_a_claim_that_cannot_be_read_is_a_dead_letter(harness: ClaimHarness, claim: str) -> None:
    bus, raw = await harness.connect(), await harness.raw()
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    await raw.publisher.publish(message("job.large", b"", claim=claim))
    (letter,) = await buried(bus, "work", 1)
    assert "claim" in letter.failure.reason
    assert letter.problem
    assert taker.seen == []


async def test_a_store_that_is_away_hands_back_and_costs_no_attempt(harness: ClaimHarness) -> None:
    away = AwayArtifacts(harness.artifacts)
    bus, sender = harness.around(await harness.raw(), away), await harness.connect()
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    await sender.publisher.publish(message("job.large", _LARGE))
    for _ in range(10):
        await harness.advance(1)
    assert taker.seen == []
    away.away = False
    await pass_time_until(harness, lambda: taker.finished >= 1)
    (received,) = taker.envelopes
    assert (received.body, received.attempt) == (_LARGE, 1)
    assert received.handbacks > 1


async def test_what_cannot_be_stored_aside_is_not_sent(harness: ClaimHarness) -> None:
    away = AwayArtifacts(harness.artifacts)
    bus, taker = harness.around(await harness.raw(), away), Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    with pytest.raises(NotConfirmed, match="volume is not mounted"):
        await bus.publisher.publish(message("job.large", _LARGE))
    small, large = message("job.small", b"small"), message("job.large", _LARGE)
    with pytest.raises(NotConfirmed):
        await bus.publisher.publish_many([large, small])
    await taker.wait_for(1)
    assert taker.ids == [small.message_id]


async def test_a_body_beyond_the_limit_is_refused_although_its_claim_is_small(harness: ClaimHarness) -> None:
    sender, receiver = await harness.connect(), await harness.connect(max_body_bytes=100)
    taker = Recorder()
    await receiver.subscriber.subscribe(_WORK, taker)
    with pytest.raises(BodyTooLarge, match="101"):
        await receiver.publisher.publish(message("job.large", b"x" * 101))
    await sender.publisher.publish(message("job.large", b"x" * 101))
    (letter,) = await buried(receiver, "work", 1)
    assert "101" in letter.failure.reason
    assert taker.seen == []


async def test_a_large_mended_body_is_claimed_again_when_it_is_sent_on(harness: ClaimHarness) -> None:
    bus, raw = await harness.connect(), await harness.raw()
    taker = Recorder([DeadLetter(reason="broken"), DeadLetter(reason="still broken")])
    await bus.subscriber.subscribe(_WORK, taker)
    sent = message("job.large", _LARGE)
    await bus.publisher.publish(sent)
    await buried(bus, "work", 1)
    replayed = await bus.dead_letters.replay("work", sent.message_id, body=b"a mended body that is large")
    assert (replayed.body, replayed.claim) == (b"a mended body that is large", None)
    await taker.wait_finished(2)
    (letter,) = await buried(raw, "work", 1)
    assert letter.envelope.claim == str(Reference.of(b"a mended body that is large"))
    await bus.dead_letters.replay("work", sent.message_id, body=b"mended")
    await taker.wait_finished(3)
    assert [one.body for one in taker.envelopes] == [_LARGE, b"a mended body that is large", b"mended"]
    assert [one.message_id for one in taker.envelopes] == [sent.message_id] * 3


async def test_a_walk_shows_whole_bodies_and_claims_what_it_sends_on(harness: ClaimHarness) -> None:
    bus, raw = await harness.connect(), await harness.raw()
    taker = Recorder(lambda one: DeadLetter(reason="no") if one.body.startswith(b"broken") else Retry(reason="later"))
    await bus.subscriber.subscribe(_WORK, taker)
    for number in range(5):
        await bus.publisher.publish(message("job.large", f"broken and large {number}".encode()))
    await buried(bus, "work", 5)
    shown: list[bytes] = []

    async def mend(letters: Sequence[Letter]) -> Sequence[Fate]:
        shown.extend(letter.envelope.body for letter in letters)
        return [
            SendOn(letter.envelope.replace(body=b"mended and large " + letter.envelope.body[-1:]))
            if letter.envelope.body.endswith((b"1", b"3"))
            else Keep()
            for letter in letters
        ]

    walked = await bus.dead_letters.walk("work", mend, batch=2)
    assert (walked.seen, walked.sent, walked.kept) == (5, 2, 3)
    assert sorted(shown) == [f"broken and large {number}".encode() for number in range(5)]
    await taker.wait_finished(7)
    assert {one.body for one in taker.envelopes[5:]} == {b"mended and large 1", b"mended and large 3"}
    assert {letter.envelope.body for letter in await raw.dead_letters.letters("work")} == {b""}


async def test_a_body_put_beside_an_old_claim_is_what_counts(harness: ClaimHarness) -> None:
    bus, raw = await harness.connect(), await harness.raw()
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    failure = Failure(reason="imported", queue="rockbot.work", topic="job.large", at_ms=harness.clock.now_ms())
    lost = message("job.large", b"", claim=str(Reference.of(b"what nobody has any more")))
    await raw.dead_letters.bury("work", lost, failure)

    async def mend(letters: Sequence[Letter]) -> Sequence[Fate]:
        assert all(letter.problem for letter in letters)
        return [SendOn(letter.envelope.replace(body=b"written anew by hand")) for letter in letters]

    assert (await bus.dead_letters.walk("work", mend)).sent == 1
    (received,) = await taker.wait_for(1)
    assert received.body == b"written anew by hand"


async def test_an_imported_letter_is_claimed_and_a_discarded_one_is_shown_whole(harness: ClaimHarness) -> None:
    bus, raw = await harness.connect(), await harness.raw()
    await bus.declare([_WORK])
    failure = Failure(reason="imported", queue="rockbot.work", topic="job.large", at_ms=harness.clock.now_ms())
    await bus.dead_letters.bury("work", message("job.large", _LARGE), failure)
    (letter,) = await raw.dead_letters.letters("work")
    assert letter.envelope.claim == str(Reference.of(_LARGE))
    gone = await bus.dead_letters.discard("work", letter.id, reason="test")
    assert gone.envelope.body == _LARGE

    async def put_away(letters: Sequence[Letter]) -> Sequence[Fate]:
        return [Discard("test") for _ in letters]

    assert (await bus.dead_letters.walk("work", put_away)).seen == 0


async def test_with_threshold_zero_nothing_is_claimed_and_claims_of_others_are_read(harness: ClaimHarness) -> None:
    sender = await harness.connect()
    check = ClaimCheck(harness.artifacts, threshold=0)
    receiver, raw = LayeredBus(await harness.raw(), (check,)), await harness.raw()
    taker, seen = Recorder(), Recorder()
    await receiver.subscriber.subscribe(_WORK, taker)
    await raw.subscriber.subscribe(WorkSubscription(name="raw", patterns=("job.#",)), seen)
    await sender.publisher.publish(message("job.one", _LARGE))
    await receiver.publisher.publish(message("job.two", _LARGE))
    assert [one.body for one in await taker.wait_for(2)] == [_LARGE, _LARGE]
    first, second = await seen.wait_for(2)
    assert first.claim
    assert second.claim is None


async def test_the_artifacts_are_those_of_the_messages_tenant(harness: ClaimHarness) -> None:
    bus, raw = await harness.connect(), await harness.raw()
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    await bus.publisher.publish(message("job.large", _LARGE, tenant="acme"))
    assert list(harness.artifacts.stored) == [("acme", Reference.of(_LARGE).digest)]
    (received,) = await taker.wait_for(1)
    assert received.body == _LARGE
    stolen: MessageEnvelope = message("job.large", b"", tenant="umbrella", claim=str(Reference.of(_LARGE)))
    await raw.publisher.publish(stolen)
    (letter,) = await buried(bus, "work", 1)
    assert letter.failure.error_type == ArtifactMissing.__name__


async def test_a_store_that_stays_away_ends_in_a_dead_letter_and_its_turn_is_told(harness: ClaimHarness) -> None:
    away = AwayArtifacts(harness.artifacts)
    # Above the size of a notice, which would lie aside itself.
    bus = claim_check_bus(await harness.raw(), away, threshold=1000, clock=harness.clock)
    sender = await harness.connect()
    taker, turn = Recorder(), Recorder()
    patient = WorkSubscription(name="work", patterns=("job.#",), retry=RetryPolicy(delays=(1,), max_handbacks=2))
    await bus.subscriber.subscribe(patient, taker)
    await sender.subscriber.subscribe(WatchSubscription(name="turn", patterns=("turn.step",)), turn)
    address = ReturnAddress("turn.step", "token-1")
    await sender.publisher.publish(message("job.large", _LARGE, return_address=address))
    await pass_time_until(harness, lambda: turn.finished >= 1)
    (letter,) = await buried(sender, "work", 1)
    assert "volume is not mounted" in letter.failure.reason
    assert letter.envelope.body == _LARGE
    assert taker.seen == []
