"""From envelope to verdict: the one place that knows the whole order.

Decode, run the chain, publish what it emitted, then give the verdict. Nothing is sent when the chain fails, and nothing is
settled before everything sent is confirmed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final, final

from rockbot.chain import Chain
from rockbot.context import Context
from rockbot.errors import NewerRelease, PermanentFailure
from rockbot.events.registry import EventRegistry
from rockbot.failures import FAILURES, UPGRADE_WINDOW, FailureRule, verdict_of
from rockbot.outgoing import Outgoing
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import SCHEMA_VERSION, MessageEnvelope
from rockbot_messaging.ports import MessageHandler
from rockbot_messaging.settlement import failing_for
from rockbot_messaging.subscriptions import Subscription, WorkSubscription
from rockbot_messaging.verdicts import Ack, DeadLetter, Verdict

__all__ = ["UPGRADE_WINDOW", "Dispatcher"]

logger = logging.getLogger(__name__)

_ACK: Final = Ack()
#: What goes into state keys, derived ids and headers of other messages.
_IDS: Final = (
    "message_id", "tenant", "conversation_id", "root_task_id", "correlation_id", "causation_id", "reply_to",
    "topic", "type", "source", "traceparent", "tracestate", "return_address.topic", "return_address.token",
)  # fmt: skip
_IDS_OF: Final = attrgetter(*_IDS)
_IDS_WITHOUT_ADDRESS: Final = attrgetter(*_IDS[:-2])


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
        remember = subscription.remember if isinstance(subscription, WorkSubscription) else None

        def handle(envelope: MessageEnvelope) -> Awaitable[Verdict]:
            return self.dispatch(envelope, subscription=name, remember=remember)

        return handle

    async def dispatch(
        self, envelope: MessageEnvelope, *, subscription: str = "", remember: float | None = None
    ) -> Verdict:
        """Handle one delivery. Raises nothing but `asyncio.CancelledError`.

        `remember` is for how long the subscription remembers the ids of handled messages, None for not at all.
        """
        unsayable = _unsayable(envelope)
        handled = False
        try:
            if unsayable:
                raise PermanentFailure(f"the {unsayable} of this message is no text that UTF-8 can carry")
            if envelope.schema_version > SCHEMA_VERSION + 1:
                raise NewerRelease(
                    f"schema version {envelope.schema_version} is newer than this release reads ({SCHEMA_VERSION + 1})"
                )
            event = self._registry.decode(self._registry.resolve(envelope.type, envelope.topic), envelope.body)
            context = Context(
                envelope, clock=self._clock, source=self._source, subscription=subscription, remember=remember
            )
            await self._chain.run(event, context)
            handled = True
            if context.emissions:
                await self._outgoing.send(context.emissions)
            for act in context.after_publish:
                await act()
            return _ACK
        except Exception as exc:
            verdict = verdict_of(exc, self._rules, failing_for=failing_for(envelope, self._clock.now_ms()))
            if not isinstance(verdict, Ack) and (link := self._chain.blame(exc)):
                verdict = replace(verdict, handler=link)
            self._log(envelope, verdict, handled=handled)
            return verdict

    def _log(self, envelope: MessageEnvelope, verdict: Verdict, *, handled: bool) -> None:
        """What becomes of a failed message. How handling failed is the logging link's to tell; that what a `handled` message
        emitted could not be sent is known here alone."""
        assert not isinstance(verdict, Ack)
        level, what = logging.DEBUG, "message retried"
        if isinstance(verdict, DeadLetter):
            level, what = logging.WARNING, "message dead-lettered"
        elif handled:
            level, what = (
                logging.WARNING if verdict.counted else logging.INFO,
                "what a message emitted could not be sent",
            )
        logger.log(
            level,
            what,
            extra={
                "message_id": envelope.message_id,
                "topic": envelope.topic,
                "attempt": envelope.attempt,
                "error": f"{verdict.error_type}: {verdict.reason}",
            },
        )


def _unsayable(envelope: MessageEnvelope) -> str:
    """What of a message's routing data holds a lone surrogate and could neither be stored nor sent; "" is nothing."""
    texts = (_IDS_OF if envelope.return_address else _IDS_WITHOUT_ADDRESS)(envelope)
    try:
        "".join(filter(None, texts)).encode()
    except UnicodeEncodeError as exc:
        at = 0
        for name, text in zip(_IDS, texts, strict=False):
            at += len(text or "")
            if exc.start < at:
                return name
    return ""
