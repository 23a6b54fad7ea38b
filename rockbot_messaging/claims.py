"""Large bodies lie aside, and messages carry a reference to them: what brokers are bad at is kept away from them.

Only what goes through the door for commands is claimed, because only our own processes receive it. An answer goes to a
queue of somebody else, and what is public is read by anybody: those have no access to our artifacts. Foreign publishers
need not know of any of this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, final

from rockbot_messaging.artifacts import ArtifactMissing, ArtifactStore, ArtifactsUnavailable, Reference
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BodyTooLarge, NotConfirmed
from rockbot_messaging.layers import Layer, LayeredBus, Refusal, with_problem
from rockbot_messaging.letters import Letter
from rockbot_messaging.measures import NO_MEASURES, Measures, Names
from rockbot_messaging.ports import Door, MessageBus
from rockbot_messaging.subscriptions import Subscription
from rockbot_messaging.verdicts import DeadLetter, Retry

__all__ = ["DEFAULT_THRESHOLD", "ClaimCheck", "claim_check_bus"]

#: Bytes of the largest body that still travels in its message.
DEFAULT_THRESHOLD: Final = 64 * 1024


def claim_check_bus(
    bus: MessageBus,
    artifacts: ArtifactStore,
    *,
    threshold: int = DEFAULT_THRESHOLD,
    max_body_bytes: int | None = None,
    clock: Clock | None = None,
    source: str = "",
    measures: Measures = NO_MEASURES,
) -> LayeredBus:
    """`bus`, with bodies above `threshold` bytes kept in `artifacts`. Arguments are those of `ClaimCheck`."""
    check = ClaimCheck(artifacts, threshold=threshold, max_body_bytes=max_body_bytes, measures=measures)
    return LayeredBus(bus, (check,), clock=clock, source=source)


@final
class ClaimCheck(Layer):
    """The layer.

    A body above `threshold` bytes (0: none) is stored before its message is published; the message says its digest. Before
    a handler sees a message its body is read back and compared with the digest. An artifact that is missing or damaged is a
    dead letter; one that cannot be read now hands the message back, at no attempt's cost. Copies for retries and dead
    letters keep the small body; whoever looks at letters sees them whole, as far as their artifacts are there.

    Args:
        artifacts: shared by every process that receives.
        threshold: see above; claims of others are read back whatever it is.
        max_body_bytes: limit of whole bodies, claimed or not, on both sides; None for none beyond the provider's.
        measures: counts bodies, out and in.
        on_close: awaited once the bus is closed.
    """

    def __init__(
        self,
        artifacts: ArtifactStore,
        *,
        threshold: int = DEFAULT_THRESHOLD,
        max_body_bytes: int | None = None,
        measures: Measures = NO_MEASURES,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._artifacts = artifacts
        self._threshold = threshold
        self._max_body_bytes = max_body_bytes
        self._measures = measures
        self._on_close = on_close

    async def outgoing(self, envelope: MessageEnvelope, door: Door | None) -> MessageEnvelope:
        if door is not Door.COMMANDS:
            return await self._restored(envelope) if _counts(envelope) else envelope
        return await self._claimed(envelope)

    async def incoming(self, envelope: MessageEnvelope, subscription: Subscription) -> MessageEnvelope | Refusal:  # noqa: ARG002
        if not _counts(envelope):
            return envelope
        try:
            reference = Reference.parse(envelope.claim or "")
        except ValueError as exc:
            return _dead(f"the claim of its body cannot be read: {exc}", ArtifactMissing)
        limit = self._max_body_bytes
        if limit is not None and reference.size > limit:
            text = f"the body has {reference.size} bytes, this receiver takes at most {limit}"
            return _dead(text, BodyTooLarge)
        try:
            return await self._restored(envelope)
        except ArtifactMissing as exc:
            return _dead(f"its body is missing: {exc}", ArtifactMissing)
        except ArtifactsUnavailable as exc:
            reason = f"its body cannot be read now: {exc}"
            verdict = Retry(reason=reason, counted=False, error_type=ArtifactsUnavailable.__name__)
            return Refusal(verdict, tell=True)  # told only if it has been handed back too often

    async def shown(self, letter: Letter) -> Letter:
        if not _counts(letter.envelope):
            return letter
        try:
            return replace(letter, envelope=await self._restored(letter.envelope))
        except (ArtifactMissing, ArtifactsUnavailable, ValueError) as exc:
            return with_problem(letter, f"its body cannot be shown: {exc}")

    def changes_replays(self, body: bytes | None) -> bool:
        return body is not None and 0 < self._threshold < len(body)

    async def sends_on(self, envelope: MessageEnvelope) -> MessageEnvelope:
        return await self._claimed(envelope)

    async def buries(self, envelope: MessageEnvelope) -> MessageEnvelope:
        return await self._claimed(envelope)

    async def close(self) -> None:
        if self._on_close is not None:
            await self._on_close()

    async def _claimed(self, envelope: MessageEnvelope) -> MessageEnvelope:
        size = len(envelope.body)
        if self._max_body_bytes is not None and size > self._max_body_bytes:
            raise BodyTooLarge(
                f"message {envelope.message_id} for {envelope.topic!r} has a body of {size} bytes, the limit is "
                f"{self._max_body_bytes}: send a reference instead"
            )
        if not 0 < self._threshold < size:
            return envelope
        try:
            claim = await self._artifacts.put(envelope.body, tenant=envelope.tenant)
        except ArtifactsUnavailable as exc:
            raise NotConfirmed(
                f"message {envelope.message_id} for {envelope.topic!r} was not sent, because its body of {size} bytes"
                f" could not be stored aside: {exc}"
            ) from exc
        self._measures.count(Names.CLAIMS, direction="out")
        return envelope.replace(body=b"", claim=claim)

    async def _restored(self, envelope: MessageEnvelope) -> MessageEnvelope:
        claim = envelope.claim or ""
        reference = Reference.parse(claim)
        body = await self._artifacts.get(claim, tenant=envelope.tenant)
        if not await reference.fits(body):
            raise ArtifactMissing(f"the artifact {reference} is damaged: its {len(body)} bytes are others")
        self._measures.count(Names.CLAIMS, direction="in")
        return envelope.replace(body=body, claim=None)


def _counts(envelope: MessageEnvelope) -> bool:
    """Whether the body lies aside. One that is there goes before a claim: it was mended, the claim says what it was."""
    return envelope.claim is not None and not envelope.body


def _dead(reason: str, error: type[Exception]) -> Refusal:
    # Its turn is told, as it is when a handler gives up: what is missing is ours, whoever waits did nothing wrong.
    return Refusal(DeadLetter(reason=reason, error_type=error.__name__), tell=True)
