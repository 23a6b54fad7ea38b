"""From envelope to verdict: the one place that knows the whole order.

Decode, run the chain, publish what it emitted, then give the verdict. Nothing is sent when the chain fails, and nothing is
settled before everything sent is confirmed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, final

from rockbot.chain import Chain
from rockbot.context import Context, Emission
from rockbot.events.registry import EventRegistry
from rockbot.failures import FAILURES, FailureRule, verdict_of
from rockbot.outgoing import Outgoing
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import SCHEMA_VERSION, MessageEnvelope
from rockbot_messaging.notices import tell_who_waits
from rockbot_messaging.ports import MessageHandler
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import Subscription, WorkSubscription
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

__all__ = ["UPGRADE_WINDOW", "Dispatcher"]

logger = logging.getLogger(__name__)

#: Seconds that a message of a newer schema version waits for the upgrade that can read it.
UPGRADE_WINDOW: Final = 15 * 60
#: Seconds between two looks at such a message.
_UPGRADE_POLL: Final = 30.0

_ACK: Final = Ack()


@final
class Dispatcher:
    """Turns deliveries into verdicts."""

    def __init__(
        self,
        *,
        registry: EventRegistry,
        chain: Chain,
        outgoing: Outgoing,
        clock: Clock,
        source: str,
        rules: Sequence[FailureRule] = FAILURES,
    ) -> None:
        self._registry = registry
        self._chain = chain
        self._outgoing = outgoing
        self._clock = clock
        self._source = source
        self._rules = rules

    def handler(self, subscription: Subscription) -> MessageHandler:
        """The function that handles one subscription's deliveries."""
        name = subscription.name
        policy = subscription.retry if isinstance(subscription, WorkSubscription) else None

        async def handle(envelope: MessageEnvelope) -> Verdict:
            return await self.dispatch(envelope, subscription=name, policy=policy)

        return handle

    async def dispatch(
        self, envelope: MessageEnvelope, *, subscription: str = "", policy: RetryPolicy | None = None
    ) -> Verdict:
        """Handle one delivery. Raises nothing but `asyncio.CancelledError`."""
        try:
            if envelope.schema_version > SCHEMA_VERSION + 1:
                verdict = self._too_new(envelope)
            else:
                event = self._registry.decode(self._registry.resolve(envelope.type, envelope.topic), envelope.body)
                context = Context(envelope, clock=self._clock, source=self._source, subscription=subscription)
                await self._chain.run(event, context)
                if context.emissions:
                    await self._outgoing.send(context.emissions)
                for act in context.after_publish:
                    await act()
                return _ACK
        except Exception as exc:
            verdict = verdict_of(exc, self._rules)
            self._log(envelope, verdict)
        return await self._tell_turn(envelope, verdict, subscription, policy)

    def _too_new(self, envelope: MessageEnvelope) -> Verdict:
        reason = f"schema version {envelope.schema_version} is newer than this release reads ({SCHEMA_VERSION + 1})"
        age = (self._clock.now_ms() - envelope.timestamp_ms) / 1000
        if age > UPGRADE_WINDOW:
            return DeadLetter(reason=f"{reason}; no newer host took it within {UPGRADE_WINDOW // 60} minutes")
        return Retry(after=_UPGRADE_POLL, reason=reason, counted=False)

    async def _tell_turn(
        self, envelope: MessageEnvelope, verdict: Verdict, subscription: str, policy: RetryPolicy | None
    ) -> Verdict:
        """A step that ends as a dead letter stalls its turn, and the turn is told before the letter is written."""
        if policy is None:
            return verdict
        return await tell_who_waits(
            envelope,
            verdict,
            policy,
            publish=self._publish,
            subscription=subscription,
            source=self._source,
            now_ms=self._clock.now_ms(),
        )

    async def _publish(self, envelope: MessageEnvelope) -> None:
        await self._outgoing.send([Emission(envelope)])

    def _log(self, envelope: MessageEnvelope, verdict: Verdict) -> None:
        """What becomes of a failed message; that and how it failed is the logging link's to tell."""
        assert not isinstance(verdict, Ack)
        dead = isinstance(verdict, DeadLetter)
        logger.log(
            logging.WARNING if dead else logging.DEBUG,
            "message dead-lettered" if dead else "message retried",
            extra={
                "message_id": envelope.message_id,
                "topic": envelope.topic,
                "attempt": envelope.attempt,
                "error": f"{verdict.error_type}: {verdict.reason}",
            },
        )
