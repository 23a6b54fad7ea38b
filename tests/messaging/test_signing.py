"""Signatures: valid through everything that happens to a message, invalid after any change of what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from messaging.test_memory_contract import MemoryHarness

from rockbot_messaging.artifacts import MemoryArtifacts, Reference
from rockbot_messaging.claims import ClaimCheck
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import LetterNotFound
from rockbot_messaging.layers import LayeredBus
from rockbot_messaging.letters import DISCARDED, Fate, Letter, SendOn
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.packing import pack, unpack
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.signing import BadSignature, Signer, Signing, canonical, mended, signing_bus
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.contract import BusContract
from rockbot_messaging.testing.harness import DEFAULT_BODY_LIMIT, buried, message, pass_time_until
from rockbot_messaging.verdicts import DeadLetter, Retry

_OLD, _NEW = "an old secret of more than 32 characters", "a new secret of more than 32 characters!"
_SIGNER: Final = Signer({"k1": _OLD}, active="k1")
_WORK = WorkSubscription(name="work", patterns=("job.#",), retry=RetryPolicy(max_attempts=2, delays=(1,)))

#: Fields that may change between publishing and handling; every other one is signed.
_UNSIGNED: Final = frozenset(
    {
        "attempt", "handbacks", "due_ms", "first_failed_ms", "deadline_ms", "history", "redelivered", "returns", "user_id",
        "traceparent", "tracestate", "durable", "claim", "signature", "foreign_id",
    }
)  # fmt: skip
_SIGNED: Final = sorted({field.name for field in dataclasses.fields(MessageEnvelope)} - _UNSIGNED)

_texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
_some = _texts.filter(bool)
_maybe = st.none() | _some
_instants = st.integers(min_value=1000, max_value=10**13)
_values = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | _texts
_names = st.from_regex(r"[a-wA-Z_=:][a-zA-Z0-9_=:-]{0,8}", fullmatch=True)

_FIELDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "topic": st.sampled_from(["job.one", "job.two", "a.b.c"]),
    "body": st.binary(max_size=30),
    "message_id": _some,
    "type": _texts,
    "source": _texts,
    "timestamp_ms": _instants,
    "content_type": _some,
    "tenant": _some,
    "schema_version": st.integers(1, 5),
    "correlation_id": _maybe,
    "reply_to": _maybe,
    "destination": _maybe,
    "causation_id": _maybe,
    "conversation_id": _maybe,
    "root_task_id": _maybe,
    "deadline_ms": st.none() | _instants,
    "attempt": st.integers(1, 9),
    "handbacks": st.integers(0, 9),
    "due_ms": st.none() | _instants,
    "first_failed_ms": st.none() | _instants,
    "return_address": st.none() | st.builds(ReturnAddress, _some, _texts),
    "user_id": _maybe,
    "traceparent": _maybe,
    "tracestate": _maybe,
    "durable": st.booleans(),
    "redelivered": st.booleans(),
    "returns": st.integers(0, 9),
    "claim": st.none(),
    "signature": _maybe,
    "foreign_id": _maybe,
    "history": st.lists(_some, max_size=3).map(tuple),
    "headers": st.dictionaries(_names, _values, max_size=3),
}
_envelopes = st.fixed_dictionaries(_FIELDS).map(lambda fields: MessageEnvelope(**fields))


def _same(name: str, one: Any, other: Any) -> bool:
    """Whether the wire could tell the two values of a field apart."""
    if name == "timestamp_ms":
        return bool(one // 1000 == other // 1000)
    if name == "headers":
        # 1, 1.0 and True are equal in Python, and three things on the wire.
        return [(key, repr(value)) for key, value in sorted(one.items())] == [
            (key, repr(value)) for key, value in sorted(other.items())
        ]
    return bool((one or None) == (other or None))


def test_every_field_of_an_envelope_is_known_to_this_test() -> None:
    assert {field.name for field in dataclasses.fields(MessageEnvelope)} == set(_FIELDS)


@given(_envelopes, st.data())
def test_any_change_of_a_signed_field_invalidates_the_signature(envelope: MessageEnvelope, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(_SIGNED))
    value = data.draw(_FIELDS[name].filter(lambda value: not _same(name, value, getattr(envelope, name))))
    signed = _SIGNER.sign(envelope)
    assert _SIGNER.verify(signed) == "k1"
    with pytest.raises(BadSignature) as caught:
        _SIGNER.verify(signed.replace(**{name: value}))
    assert caught.value.cause == "wrong"


@given(_envelopes, st.fixed_dictionaries({name: _FIELDS[name] for name in sorted(_UNSIGNED - {"signature", "claim"})}))
def test_no_change_of_the_others_does(envelope: MessageEnvelope, changes: dict[str, Any]) -> None:
    signed = _SIGNER.sign(envelope)
    assert _SIGNER.verify(signed.replace(**changes)) == "k1"
    assert _SIGNER.verify(unpack(pack(signed.replace(**changes)))) == "k1"


@given(_envelopes, _envelopes)
def test_different_messages_have_different_canonical_bytes(one: MessageEnvelope, other: MessageEnvelope) -> None:
    same = all(_same(name, getattr(one, name), getattr(other, name)) for name in _SIGNED)
    assert (canonical(one) == canonical(other)) is same


def test_the_canonical_bytes_are_those_of_the_documentation() -> None:
    envelope = MessageEnvelope(
        topic="agent.task.assistant",
        body=b'{"input": "hi"}',
        message_id="m-1",
        type="",
        source="shop",
        timestamp_ms=1_700_000_000_999,
        correlation_id="7",
        return_address=ReturnAddress("shop.result", "ü"),
        headers={"colour": "red", "count": 3, "x-broker": "not signed"},
    )
    digest = Reference.of(envelope.body).digest
    assert canonical(envelope).decode() == (
        "rockbot-signature-v1\n"
        "topic=20:agent.task.assistant\n"
        "message_id=3:m-1\n"
        "source=4:shop\n"
        "content_type=16:application/json\n"
        "tenant=7:default\n"
        "schema_version=1:1\n"
        "correlation_id=1:7\n"
        "timestamp=10:1700000000\n"
        "return_topic=11:shop.result\n"
        "return_token=2:ü\n"
        f"body=64:{digest}\n"
        "header:6:colour=8:text:red\n"
        "header:5:count=5:int:3\n"
    )


def test_a_claimed_body_has_the_signature_of_the_whole_one() -> None:
    whole = message("job.one", b"a large body")
    claimed = whole.replace(body=b"", claim=str(Reference.of(b"a large body")))
    assert _SIGNER.sign(whole).signature == _SIGNER.sign(claimed).signature
    with pytest.raises(BadSignature):
        _SIGNER.verify(_SIGNER.sign(claimed).replace(claim=str(Reference.of(b"another body"))))


def test_an_old_key_verifies_while_the_new_one_signs() -> None:
    rotated = Signer({"k1": _OLD, "k2": _NEW}, active="k2")
    before = _SIGNER.sign(message("job.one"))
    after = rotated.sign(message("job.one"))
    assert rotated.verify(before) == "k1"
    assert rotated.verify(after) == "k2"
    with pytest.raises(BadSignature, match="k2") as caught:
        _SIGNER.verify(after)
    assert caught.value.cause == "unknown_key"


@pytest.mark.parametrize(
    ("signature", "cause"),
    [
        (None, "missing"),
        ("", "missing"),
        ("v1;k1", "malformed"),
        ("v2;k1;00", "malformed"),
        ("v1;k9;00", "unknown_key"),
        ("v1;k1;00", "wrong"),
        ("v1;k1;ü", "wrong"),
        ("v1;k1;" + "0" * 64, "wrong"),
    ],
)
def test_what_is_wrong_with_a_signature_is_said(signature: str | None, cause: str) -> None:
    with pytest.raises(BadSignature) as caught:
        _SIGNER.verify(message("job.one", signature=signature))
    assert caught.value.cause == cause


def test_a_signer_says_what_is_wrong_with_its_keys_and_never_shows_them() -> None:
    with pytest.raises(ValueError, match="'a b'"):
        Signer({"a b": _OLD})
    with pytest.raises(ValueError, match="32") as caught:
        Signer({"k1": "short"})
    assert "short" not in str(caught.value).replace("'k1'", "")
    with pytest.raises(ValueError, match="'k2'"):
        Signer({"k1": _OLD}, active="k2")
    assert _OLD not in repr(_SIGNER)


class SigningHarness(MemoryHarness):
    """Connections that sign everything and refuse what is not signed on the topics of a test."""

    def __init__(self, *, claims: bool = False) -> None:
        super().__init__()
        self.artifacts = MemoryArtifacts() if claims else None
        self.measures = Counters()

    async def connect(self, *, max_body_bytes: int = DEFAULT_BODY_LIMIT) -> Any:
        inner = await super().connect(max_body_bytes=max_body_bytes)
        # The suite publishes as strangers too, so nothing is required there; and it compares what was sent with what came.
        layers: list[Any] = [Signing(Signer({"k1": _OLD}), measures=self.measures)]
        if self.artifacts is not None:
            layers.insert(0, ClaimCheck(self.artifacts, threshold=10, max_body_bytes=max_body_bytes))
        return LayeredBus(inner, layers, clock=self.clock)

    async def raw(self) -> Any:
        return await super().connect()

    async def signing(self, signer: Signer = _SIGNER, *, require: tuple[str, ...] = ("job.#",)) -> LayeredBus:
        return signing_bus(await self.raw(), signer, require=require, clock=self.clock, measures=self.measures)

    async def kill(self, bus: MessageBus) -> None:
        assert isinstance(bus, LayeredBus)
        await super().kill(bus.inner)


@pytest.fixture
async def harness() -> AsyncIterator[SigningHarness]:
    harness = SigningHarness()
    yield harness
    await harness.close()


class TestSigningAndClaims(BusContract):
    """Both layers in the order that hosts have them."""

    @pytest.fixture
    async def harness(self) -> AsyncIterator[SigningHarness]:
        harness = SigningHarness(claims=True)
        yield harness
        await harness.close()


async def test_what_a_bus_publishes_is_signed_and_taken_where_that_is_required(harness: SigningHarness) -> None:
    bus = await harness.signing()
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    sent = message("job.one", b"payload", timestamp_ms=1_700_000_000_123, headers={"count": 1, "x-mine": "goes"})
    await bus.publisher.publish(sent)
    await bus.publisher.publish_many([message("job.two")])
    first, _ = await taker.wait_for(2)
    assert _SIGNER.verify(first) == "k1"


async def test_a_message_that_is_signed_already_keeps_its_signature(harness: SigningHarness) -> None:
    bus = await harness.signing(Signer({"k1": _OLD, "k2": _NEW}, active="k2"))
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    signed = _SIGNER.sign(message("job.one"))
    await bus.publisher.publish(signed)
    (received,) = await taker.wait_for(1)
    assert received.signature == signed.signature


async def test_unsigned_changed_and_strangely_signed_messages_are_dead_letters_that_say_which(
    harness: SigningHarness,
) -> None:
    bus, stranger = await harness.signing(), await harness.raw()
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    await stranger.publisher.publish(message("job.unsigned"))
    await stranger.publisher.publish(_SIGNER.sign(message("job.changed")).replace(body=b"other"))
    await stranger.publisher.publish(Signer({"k7": _NEW}, active="k7").sign(message("job.unknown")))
    letters = {one.envelope.topic: one.failure for one in await buried(bus, "work", 3)}
    assert "not signed" in letters["job.unsigned"].reason
    assert "wrong" in letters["job.changed"].reason
    assert "'k7'" in letters["job.unknown"].reason
    assert {one.error_type for one in letters.values()} == {"BadSignature"}
    assert taker.seen == []
    for cause in ("missing", "wrong", "unknown_key"):
        assert harness.measures.value(Names.UNTRUSTED, cause=f"signature_{cause}") == 1


async def test_topics_that_need_no_signature_take_anything(harness: SigningHarness) -> None:
    bus, stranger = await harness.signing(require=("job.secret.#",)), await harness.raw()
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    await stranger.publisher.publish(message("job.open"))
    await taker.wait_for(1)


async def test_a_forger_who_goes_past_the_exchanges_under_another_topic_is_refused(harness: SigningHarness) -> None:
    bus, stranger = await harness.signing(), await harness.raw()
    taker = Recorder()
    consumption = await bus.subscriber.subscribe(_WORK, taker)
    await stranger.publisher.send(message("innocent.topic"), address=consumption.address)
    (letter,) = await buried(bus, "work", 1)
    assert "not signed" in letter.failure.reason
    assert taker.seen == []


async def test_a_refused_command_tells_nobody(harness: SigningHarness) -> None:
    bus, stranger = await harness.signing(), await harness.raw()
    victim = Recorder()
    await bus.subscriber.subscribe(_WORK, Recorder())
    await bus.subscriber.subscribe(WorkSubscription(name="victim", patterns=("victim.step",)), victim)
    await stranger.publisher.publish(message("job.forged", return_address=ReturnAddress("victim.step", "token")))
    await buried(bus, "work", 1)
    marker = message("victim.step")
    await bus.publisher.publish(marker)
    await victim.wait_for(1)
    assert victim.ids == [marker.message_id]


async def test_a_signature_stays_valid_through_retries_and_a_replay(harness: SigningHarness) -> None:
    bus = await harness.signing()
    taker = Recorder([Retry(reason="once more"), DeadLetter(reason="no")])
    await bus.subscriber.subscribe(_WORK, taker)
    sent = message("job.one", b"payload", deadline_ms=4_000_000_000_000)
    await bus.publisher.publish(sent)
    await pass_time_until(harness, lambda: taker.finished >= 2)
    await buried(bus, "work", 1)
    await harness.advance(5)
    await bus.dead_letters.replay("work", sent.message_id)
    await taker.wait_finished(3)
    assert {one.signature for one in taker.envelopes} == {_SIGNER.sign(sent).signature}
    assert taker.envelopes[2].deadline_ms != sent.deadline_ms


@pytest.mark.parametrize("body", [b"mended", None], ids=["mended", "as it is"])
async def test_a_letter_that_is_replayed_by_somebody_with_the_key_is_signed_by_it(
    harness: SigningHarness, body: bytes | None
) -> None:
    bus, stranger = await harness.signing(), await harness.raw()
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    sent = message("job.unsigned", b"broken")
    await stranger.publisher.publish(sent)
    await buried(bus, "work", 1)
    await bus.dead_letters.replay("work", sent.message_id, body=body)
    (received,) = await taker.wait_for(1)
    assert received.body == (body or b"broken")
    assert _SIGNER.verify(received) == "k1"


async def test_an_edit_on_a_walk_is_signed_anew(harness: SigningHarness) -> None:
    bus = await harness.signing()
    taker = Recorder([DeadLetter(reason="no")])
    await bus.subscriber.subscribe(_WORK, taker)
    await bus.publisher.publish(message("job.one", b"broken", headers={"colour": "red"}))
    await buried(bus, "work", 1)

    async def edit(letters: Sequence[Letter]) -> Sequence[Fate]:
        return [SendOn(mended(letter.envelope, body=b"mended", headers={"colour": "blue"})) for letter in letters]

    assert (await bus.dead_letters.walk("work", edit)).sent == 1
    await taker.wait_finished(2)
    received = taker.envelopes[1]
    assert (received.body, dict(received.headers)) == (b"mended", {"colour": "blue"})
    assert _SIGNER.verify(received) == "k1"


async def test_an_edit_that_keeps_the_old_signature_is_refused(harness: SigningHarness) -> None:
    bus = await harness.signing()
    taker = Recorder([DeadLetter(reason="no")])
    await bus.subscriber.subscribe(_WORK, taker)
    await bus.publisher.publish(message("job.one", b"broken"))
    await buried(bus, "work", 1)

    async def forge(letters: Sequence[Letter]) -> Sequence[Fate]:
        return [SendOn(letter.envelope.replace(body=b"mended")) for letter in letters]

    await bus.dead_letters.walk("work", forge)
    await pass_time_until(harness, lambda: harness.measures.value(Names.UNTRUSTED, cause="signature_wrong") == 1)
    assert len(taker.seen) == 1


async def test_a_signer_without_an_active_key_only_checks(harness: SigningHarness) -> None:
    checker = await harness.signing(Signer({"k1": _OLD}))
    taker = Recorder()
    await checker.subscriber.subscribe(_WORK, taker)
    await checker.publisher.publish(message("job.one"))
    (letter,) = await buried(checker, "work", 1)
    assert letter.envelope.signature is None
    await (await harness.signing()).publisher.publish(message("job.two"))
    await taker.wait_for(1)


async def test_a_discarded_letter_is_not_replayed_by_somebody_with_the_key_either(harness: SigningHarness) -> None:
    bus = await harness.signing()
    await bus.subscriber.subscribe(_WORK, Recorder([DeadLetter(reason="no")]))
    sent = message("job.one")
    await bus.publisher.publish(sent)
    await buried(bus, "work", 1)
    await bus.dead_letters.discard("work", sent.message_id, reason="test")
    with pytest.raises(LetterNotFound, match="restore"):
        await bus.dead_letters.replay(DISCARDED, sent.message_id, body=b"mended")
    assert [one.id for one in await bus.dead_letters.letters(DISCARDED)] == [sent.message_id]
