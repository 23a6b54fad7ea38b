"""The outermost wrapper: what became of each delivery is counted, and whoever waits for an answer is told of a dead end.

It knows the verdict that is really carried out, after an outage or a poison mark has changed the handler's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import final

from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Measures, Names, counter
from rockbot_messaging.notices import tell_who_waits
from rockbot_messaging.ports import MessageHandler
from rockbot_messaging.regulation.raised import as_retry
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.settlement import Bury, Forget, decide
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.verdicts import Ack, Retry, Verdict

__all__ = ["Settled", "counted", "outcome_of"]

Publish = Callable[[MessageEnvelope], Awaitable[None]]


@final
class Settled:
    """`handle` is a `MessageHandler` around `handler`; it raises nothing but cancellation.

    `publish` sends the notice of a dead end under the name `source`; None tells nobody.
    """

    def __init__(
        self,
        subscription: WorkSubscription,
        handler: MessageHandler,
        *,
        clock: Clock,
        measures: Measures,
        publish: Publish | None,
        source: str,
    ) -> None:
        self._name = subscription.name
        self._policy = subscription.retry
        self._handler = handler
        self._clock = clock
        self._acknowledged = counter(measures, Names.SETTLED, subscription=subscription.name, outcome="ack")
        self._count = measures.count
        self._publish = publish
        self._source = source

    async def handle(self, envelope: MessageEnvelope) -> Verdict:
        """The handler's verdict, counted; a hand-back when the notice of a dead end could not be sent."""
        try:
            verdict = await self._handler(envelope)
        except Exception as exc:
            verdict = as_retry(exc)
        if type(verdict) is Ack:
            self._acknowledged()
            return verdict
        if self._publish is not None and envelope.return_address is not None and _sayable(envelope):
            verdict = await self._tell(self._publish, envelope, verdict)
        outcome = outcome_of(envelope, verdict, self._policy, now_ms=self._clock.now_ms())
        self._count(Names.SETTLED, 1, subscription=self._name, outcome=outcome)
        return verdict

    async def _tell(self, publish: Publish, envelope: MessageEnvelope, verdict: Verdict) -> Verdict:
        try:
            return await tell_who_waits(
                envelope,
                verdict,
                self._policy,
                publish=publish,
                subscription=self._name,
                source=self._source,
                now_ms=self._clock.now_ms(),
            )
        except (ValueError, ArithmeticError):
            return verdict  # a wait that is no number of seconds; providers count it as a failure


def _sayable(envelope: MessageEnvelope) -> bool:
    """Whether what a notice takes over from the message is text that can be sent."""
    address = envelope.return_address
    told = (
        address and address.topic,
        address and address.token,
        envelope.message_id,
        envelope.tenant,
        envelope.correlation_id,
        envelope.conversation_id,
        envelope.root_task_id,
        envelope.traceparent,
        envelope.tracestate,
    )
    try:
        "".join(filter(None, told)).encode()
    except UnicodeEncodeError:
        return False
    return True


def counted(name: str, handler: MessageHandler, *, measures: Measures) -> MessageHandler:
    """The handler of a watch subscription, counted. What it raises passes through."""
    acknowledged = counter(measures, Names.SETTLED, subscription=name, outcome="ack")
    dropped = counter(measures, Names.SETTLED, subscription=name, outcome="dropped")

    async def handle(envelope: MessageEnvelope) -> Verdict:
        verdict = await handler(envelope)
        if type(verdict) is Ack:
            acknowledged()
        else:
            dropped()
        return verdict

    return handle


def outcome_of(envelope: MessageEnvelope, verdict: Verdict, policy: RetryPolicy, *, now_ms: int) -> str:
    """The word under which a verdict is counted: what it leads to, not what it asks for."""
    try:
        outcome = decide(envelope, verdict, policy, queue="", now_ms=now_ms)
    except (ValueError, ArithmeticError):
        return "retry"  # a wait that is no number of seconds; providers count it as a failure
    if isinstance(outcome, Forget):
        return "ack"
    if isinstance(outcome, Bury):
        return "dead_letter"
    return "retry" if isinstance(verdict, Retry) and verdict.counted else "handback"
