"""What is done with one delivery: read it, hand it to its handler, have the verdict carried out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, final

from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BodyTooLarge, Undecodable
from rockbot_messaging.failing import tell_failed
from rockbot_messaging.headers import refusal, shrunk
from rockbot_messaging.letters import Failure
from rockbot_messaging.ports import MessageHandler
from rockbot_messaging.rabbitmq.connection import Session
from rockbot_messaging.rabbitmq.handling import Item
from rockbot_messaging.rabbitmq.settling import Settler
from rockbot_messaging.rabbitmq.topology import Binding
from rockbot_messaging.rabbitmq.wire import ContentIds, acquisitions_of, decode, written_by_sender
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.settlement import Bury, decide, still_waiting
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict, failed_attempt

__all__ = ["Consuming", "Deliverer"]

_log = logging.getLogger("rockbot_messaging.rabbitmq")

#: Deliveries of one copy after which it is buried. RabbitMQ's own limit counts, from 4.3 on, neither what is handed back nor
#: what is held too long; a host that is drained hands back, so this is far above it.
_MOST_ACQUISITIONS: Final = 100


@final
class Consuming:
    """What a subscription needs to run. `settler` and `retry` are None for a watch subscription.

    `bindings` are undone before its queue goes: one that vanishes with its bindings makes RabbitMQ 4.3 refuse what is
    published meanwhile, which then is sent again to everybody.
    """

    def __init__(
        self,
        *,
        name: str,
        queue: str,
        prefetch: int,
        parallelism: int,
        retry: RetryPolicy | None,
        settler: Settler | None,
        handler: MessageHandler,
        prepare: Callable[[Session], Awaitable[None]],
        own_user: str | None,
        max_body_bytes: int,
        max_header_bytes: int,
        quiet_check: float,
        bindings: Sequence[Binding] = (),
    ) -> None:
        self.name = name
        self.queue = queue
        self.prefetch = prefetch
        self.parallelism = parallelism
        self.retry = retry
        self.settler = settler
        self.handler = handler
        self.prepare = prepare
        self.own_user = own_user
        self.max_body_bytes = max_body_bytes
        self.max_header_bytes = max_header_bytes
        self.quiet_check = quiet_check
        self.bindings = bindings


@final
class Deliverer:
    """Handles and settles the deliveries of one subscription."""

    def __init__(self, what: Consuming, clock: Clock, ids: IdSource) -> None:
        self._what = what
        self._clock = clock
        self._ids = ids

    async def handle(self, item: Item) -> None:
        """Handle and settle one delivery. Cancelled before its verdict, it is not settled."""
        what = self._what
        try:
            envelope = decode(item.delivery, self._ids, own_user=what.own_user)
        except Undecodable as exc:
            await self._undecodable(item, exc)
            return
        verdict: Verdict
        failed: BaseException | None = None
        if len(item.delivery.properties) > what.max_header_bytes and (refused := self._too_wide(item, envelope)):
            envelope, verdict = refused
        elif len(envelope.body) > what.max_body_bytes:
            verdict = _too_large(len(envelope.body), what.max_body_bytes)
        elif item.delivery.redelivered and (seen := acquisitions_of(item.delivery)) > _MOST_ACQUISITIONS:
            verdict = DeadLetter(
                reason=f"{seen} deliveries ended without being settled: handling it may take longer than the broker's "
                "consumer timeout"
            )
        else:
            if envelope.due_ms is not None and what.settler is not None:
                waiting = still_waiting(envelope, self._clock.now_ms())
                if waiting is not None:
                    await what.settler.carry_out(waiting, item, handled=False)
                    return
            try:
                verdict = await what.handler(envelope)
                if type(verdict) is Ack:
                    item.acks.ack(item.delivery.tag)
                    return
                if not isinstance(verdict, Retry | DeadLetter):
                    raise TypeError(f"the handler returned {verdict!r} instead of a verdict")
            except asyncio.CancelledError as exc:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Nobody cancelled it: it stumbled over something that was, and would again, at once and for ever.
                failed, verdict = exc, failed_attempt(exc)
            except Exception as exc:
                failed, verdict = exc, failed_attempt(exc)
        if what.settler is None or what.retry is None:
            _log.warning("watcher %s did not handle message %s: %s", what.name, envelope.message_id, verdict)
            item.acks.ack(item.delivery.tag)
            return
        if failed is not None and isinstance(verdict, Retry):
            tell_failed(envelope, verdict, failed, queue=what.queue)
        outcome = decide(envelope, verdict, what.retry, queue=what.queue, now_ms=self._clock.now_ms())
        await what.settler.carry_out(outcome, item)

    def _too_wide(self, item: Item, envelope: MessageEnvelope) -> tuple[MessageEnvelope, DeadLetter] | None:
        """What is left of an envelope with too large headers, and the verdict on it; None if only retries made them so."""
        limit = self._what.max_header_bytes
        size, unread = written_by_sender(item.delivery, envelope)
        if size <= limit:
            return None
        envelope, cut = shrunk(envelope, limit)
        return envelope, refusal(size, limit, [*unread, *cut])

    async def _undecodable(self, item: Item, problem: Undecodable) -> None:
        what, delivery = self._what, item.delivery
        _log.warning("undecodable message in %s: %s", what.queue, problem)
        if what.settler is None:
            item.acks.ack(delivery.tag)
            return
        topic = delivery.routing_key
        envelope = MessageEnvelope(
            topic=topic,
            body=delivery.body,
            message_id=ContentIds(delivery).new_id(),
            type="",
            content_type="application/octet-stream",
        )
        failure = Failure(
            reason=f"undecodable: {problem}",
            queue=what.queue,
            topic=topic,
            at_ms=self._clock.now_ms(),
            error_type=type(problem).__name__,
        )
        await what.settler.carry_out(Bury(envelope, failure), item, problem=str(problem))


def _too_large(size: int, limit: int) -> DeadLetter:
    reason = f"the body has {size} bytes, this receiver takes at most {limit}"
    return DeadLetter(reason=reason, error_type=BodyTooLarge.__name__)
