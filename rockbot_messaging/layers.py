"""What is done to every message of a bus, whatever its provider: layers around it, in one order.

`LayeredBus` is a bus like the one inside. A message on its way out meets the layers from the outermost to the innermost, on
its way in the other way round. Layers see what a handler sees: the copies that a provider stores for retries, delays and
dead letters are made of what came from the broker, and never of what a layer made of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

from rockbot_messaging.clock import Clock, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import LetterNotFound, MessagingError, Unroutable
from rockbot_messaging.letters import DeadLetterQueue, Failure, Fate, Keep, Letter, SendOn, Walked
from rockbot_messaging.measures import NO_MEASURES, Measures, Names
from rockbot_messaging.notices import tell_who_waits
from rockbot_messaging.ports import (
    BusHealth,
    Consumption,
    DeadLetters,
    Door,
    LetterVisitor,
    MessageBus,
    MessageHandler,
    MessagePublisher,
    MessageSubscriber,
    WorkQueue,
)
from rockbot_messaging.regulation.settled import outcome_of
from rockbot_messaging.settlement import sent_on
from rockbot_messaging.subscriptions import Subscription, WorkSubscription
from rockbot_messaging.verdicts import DeadLetter, Retry, Verdict

__all__ = ["Layer", "LayeredBus", "Refusal", "with_problem"]

#: Letters that a walk names as refused; it counts them all.
_REFUSED_NAMED: Final = 100

_log: Final = logging.getLogger("rockbot_messaging.layers")


@final
@dataclass(frozen=True, slots=True)
class Refusal:
    """A delivery that its handler does not get to see.

    `tell` says that the turn behind a command's return address is told before the letter is written. It must be False
    for what may be forged: a notice would carry a stranger's words under our own name to an address that he chose.
    """

    verdict: DeadLetter | Retry
    tell: bool = False


class Layer:
    """What a layer does not override passes as it is."""

    async def outgoing(self, envelope: MessageEnvelope, door: Door | None) -> MessageEnvelope:  # noqa: ARG002
        """What is published instead; `door` None means straight into the queue of somebody who waits for an answer.

        Raises:
            What `MessagePublisher.publish` may raise.
        """
        return envelope

    async def incoming(self, envelope: MessageEnvelope, subscription: Subscription) -> MessageEnvelope | Refusal:  # noqa: ARG002
        """What is handled instead, or why it is not."""
        return envelope

    async def shown(self, letter: Letter) -> Letter:
        """A dead letter as people see it. Must not raise: what is missing is said in `Letter.problem`."""
        return letter

    def changes_replays(self, body: bytes | None) -> bool:  # noqa: ARG002
        """Whether a letter that is sent on, mended if there is a body, may have to go through `sends_on`."""
        return False

    async def sends_on(self, envelope: MessageEnvelope) -> MessageEnvelope:
        """What is sent on instead of this message of a dead letter."""
        return envelope

    async def buries(self, envelope: MessageEnvelope) -> MessageEnvelope:
        """What is stored instead in a dead-letter queue, of a letter that no delivery stands behind."""
        return envelope

    async def close(self) -> None:
        """Let go of what the layer holds; called once the bus is closed, idempotent."""


@final
class LayeredBus:
    """Implements `MessageBus` around another one.

    Args:
        inner: the bus inside; opened and closed with this one.
        layers: outermost first.
        clock: instants of notices and of letters that are sent on.
        source: who sends notices.
        measures: where refused deliveries are counted; the others are counted by whoever handles them.
    """

    def __init__(
        self,
        inner: MessageBus,
        layers: Iterable[Layer],
        *,
        clock: Clock | None = None,
        source: str = "",
        measures: Measures = NO_MEASURES,
    ) -> None:
        self.inner = inner
        self._layers = tuple(layers)
        clock = clock or SystemClock()
        self._publisher = _LayeredPublisher(inner.publisher, self._layers)
        self._subscriber = _LayeredSubscriber(inner.subscriber, self._layers, self._publisher, clock, source, measures)
        self._letters = _LayeredLetters(inner.dead_letters, self._layers, clock)

    @property
    def publisher(self) -> MessagePublisher:
        return self._publisher

    @property
    def subscriber(self) -> MessageSubscriber:
        return self._subscriber

    @property
    def dead_letters(self) -> DeadLetters:
        return self._letters

    async def open(self) -> None:
        await self.inner.open()

    async def declare(self, subscriptions: Iterable[WorkSubscription]) -> None:
        await self.inner.declare(subscriptions)

    async def queues(self) -> list[WorkQueue]:
        return await self.inner.queues()

    def health(self) -> BusHealth:
        return self.inner.health()

    async def close(self) -> None:
        try:
            await self.inner.close()
        finally:
            for layer in self._layers:
                await layer.close()


@final
class _LayeredPublisher:
    def __init__(self, inner: MessagePublisher, layers: Sequence[Layer]) -> None:
        self._inner = inner
        self._layers = layers

    async def publish(self, envelope: MessageEnvelope, *, door: Door = Door.COMMANDS) -> None:
        await self._inner.publish(await self._made(envelope, door), door=door)

    async def publish_many(self, envelopes: Sequence[MessageEnvelope], *, door: Door = Door.COMMANDS) -> None:
        first: Exception | None = None
        made: list[MessageEnvelope] = []
        for envelope in envelopes:
            try:
                made.append(await self._made(envelope, door))
            except (MessagingError, ValueError) as exc:
                first = first or exc
        await self._inner.publish_many(made, door=door)
        if first is not None:
            raise first

    async def send(self, envelope: MessageEnvelope, *, address: str) -> None:
        await self._inner.send(await self._made(envelope, None), address=address)

    async def _made(self, envelope: MessageEnvelope, door: Door | None) -> MessageEnvelope:
        for layer in self._layers:
            envelope = await layer.outgoing(envelope, door)
        return envelope


@final
class _LayeredSubscriber:
    def __init__(
        self,
        inner: MessageSubscriber,
        layers: Sequence[Layer],
        publisher: MessagePublisher,
        clock: Clock,
        source: str,
        measures: Measures,
    ) -> None:
        self._inner = inner
        self._measures = measures
        self._inward = tuple(reversed(layers))
        self._publisher = publisher
        self._clock = clock
        self._source = source

    async def subscribe(self, subscription: Subscription, handler: MessageHandler) -> Consumption:
        inward = self._inward

        async def handle(envelope: MessageEnvelope) -> Verdict:
            seen = envelope
            for layer in inward:
                judged = await layer.incoming(seen, subscription)
                if isinstance(judged, Refusal):
                    return await self._refuse(envelope, judged, subscription)
                seen = judged
            return await handler(seen)

        return await self._inner.subscribe(subscription, handle)

    async def _refuse(self, envelope: MessageEnvelope, refusal: Refusal, subscription: Subscription) -> Verdict:
        dead = isinstance(refusal.verdict, DeadLetter)
        _log.log(
            logging.WARNING if dead else logging.INFO,
            "message refused" if dead else "message handed back",
            extra={
                "message_id": envelope.message_id,
                "topic": envelope.topic,
                "subscription": subscription.name,
                "error": f"{refusal.verdict.error_type}: {refusal.verdict.reason}",
            },
        )
        verdict: Verdict = refusal.verdict
        if not isinstance(subscription, WorkSubscription):
            self._measures.count(Names.SETTLED, subscription=subscription.name, outcome="dropped")
            return verdict
        now_ms = self._clock.now_ms()
        if refusal.tell:
            verdict = await tell_who_waits(
                envelope,
                verdict,
                subscription.retry,
                publish=self._publisher.publish,
                subscription=subscription.name,
                source=self._source,
                now_ms=now_ms,
            )
        outcome = outcome_of(envelope, verdict, subscription.retry, now_ms=now_ms)
        self._measures.count(Names.SETTLED, subscription=subscription.name, outcome=outcome)
        return verdict


@final
class _LayeredLetters:
    """`DeadLetters` as people want to see them: whole; what they send on goes through the layers."""

    def __init__(self, inner: DeadLetters, layers: Sequence[Layer], clock: Clock) -> None:
        self._inner = inner
        self._layers = layers
        self._clock = clock

    async def queues(self) -> list[DeadLetterQueue]:
        return await self._inner.queues()

    async def letters(self, queue: str, *, limit: int = 50, offset: int = 0) -> list[Letter]:
        return [await self._shown(one) for one in await self._inner.letters(queue, limit=limit, offset=offset)]

    async def letter(self, queue: str, letter_id: str) -> Letter:
        return await self._shown(await self._inner.letter(queue, letter_id))

    async def replay(self, queue: str, letter_id: str, *, body: bytes | None = None) -> MessageEnvelope:
        if not any(layer.changes_replays(body) for layer in self._layers):
            sent = await self._inner.replay(queue, letter_id, body=body)
            return await self._whole(sent)
        letter = await self._inner.letter(queue, letter_id)
        if letter.discarded is not None:
            return await self._inner.replay(queue, letter.id, body=body)  # which says what to do instead
        again = sent_on(letter, now_ms=self._clock.now_ms(), body=body)
        await self._send_on(queue, letter, await self._sends_on(again))
        return await self._whole(again)

    async def discard(self, queue: str, letter_id: str, *, reason: str) -> Letter:
        return await self._shown(await self._inner.discard(queue, letter_id, reason=reason))

    async def walk(self, queue: str, decide: LetterVisitor, *, batch: int = 200) -> Walked:
        refused: list[tuple[str, str]] = []

        async def visit(letters: Sequence[Letter]) -> Sequence[Fate]:
            fates = list(await decide([await self._shown(one) for one in letters]))
            for at, (letter, fate) in enumerate(zip(letters, fates, strict=False)):
                if isinstance(fate, SendOn):
                    try:
                        fates[at] = replace(fate, envelope=await self._sends_on(fate.envelope))
                    except (MessagingError, ValueError) as exc:
                        refused.append((letter.id, str(exc)))
                        fates[at] = Keep()
            return fates

        walked = await self._inner.walk(queue, visit, batch=batch)
        if not refused:
            return walked
        return replace(
            walked,
            kept=walked.kept - len(refused),
            refusals=walked.refusals + len(refused),
            refused=(*walked.refused, *refused)[:_REFUSED_NAMED],
        )

    async def bury(self, queue: str, envelope: MessageEnvelope, failure: Failure, *, problem: str = "") -> None:
        for layer in self._layers:
            envelope = await layer.buries(envelope)
        await self._inner.bury(queue, envelope, failure, problem=problem)

    async def _shown(self, letter: Letter) -> Letter:
        for layer in reversed(self._layers):
            letter = await layer.shown(letter)
        return letter

    async def _sends_on(self, envelope: MessageEnvelope) -> MessageEnvelope:
        for layer in self._layers:
            envelope = await layer.sends_on(envelope)
        return envelope

    async def _whole(self, envelope: MessageEnvelope) -> MessageEnvelope:
        failure = Failure(reason="", queue="", topic=envelope.topic, at_ms=0)
        letter = Letter(id=envelope.message_id, queue="", envelope=envelope, failure=failure)
        return (await self._shown(letter)).envelope

    async def _send_on(self, queue: str, letter: Letter, again: MessageEnvelope) -> None:
        """Store `again` and remove the letter: what the provider's own replay does, with another message."""
        found = False

        async def decide(letters: Sequence[Letter]) -> Sequence[Fate]:
            nonlocal found
            fates: list[Fate] = []
            for one in letters:
                here = not found and one.id == letter.id
                found = found or here
                fates.append(SendOn(again) if here else Keep())
            return fates

        walked = await self._inner.walk(queue, decide)
        if not found:
            raise LetterNotFound(f"the dead letter {letter.id!r} does not lie in {letter.queue!r} any more")
        if walked.refusals:
            cause = next((text for its_id, text in walked.refused if its_id == letter.id), "")
            raise Unroutable(again.topic, f"{cause or 'it could not be stored'}; the letter stays where it is")


def with_problem(letter: Letter, problem: str) -> Letter:
    """`letter` with one more thing that is wrong with it."""
    return replace(letter, problem=f"{letter.problem}; {problem}" if letter.problem else problem)
