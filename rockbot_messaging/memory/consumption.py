"""One running subscription of one connection: holds deliveries, runs the handler, carries its verdicts out."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BodyTooLarge, MessagingError
from rockbot_messaging.failing import tell_failed
from rockbot_messaging.headers import header_bytes, may_be_large, refusal, shrunk
from rockbot_messaging.memory.broker import MemoryBroker
from rockbot_messaging.memory.queues import MemoryQueue, Stored
from rockbot_messaging.observing import tell
from rockbot_messaging.ports import BusObserver, MessageHandler
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.room import Room
from rockbot_messaging.settlement import Bury, Delay, Forget, Outcome, decide, still_waiting
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict, failed_attempt

__all__ = ["MemoryConsumption"]

_LOG: Final = logging.getLogger("rockbot_messaging.memory")

#: Deliveries of one copy that may end unsettled; the limit that the real topology sets on its queues.
_DELIVERY_LIMIT: Final = 20

#: Seconds until a delivery comes again whose verdict could not be written down.
_STORAGE_PAUSE: Final = 5.0


@final
class MemoryConsumption:
    """Implements `Consumption`, and `Consumer` towards its queue.

    Args:
        broker: where the queue lies.
        queue: what is consumed.
        handler: called once for each delivery, in a task of its own.
        retry: what a counted Retry leads to.
        prefetch: deliveries held at most.
        parallelism: deliveries handled at the same time.
        max_body_bytes: a longer body is a dead letter.
        max_header_bytes: so are larger headers.
        name: the subscription's.
        observer: is told what was carried out.
        on_end: called once when this consumption takes nothing more.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        queue: MemoryQueue,
        handler: MessageHandler,
        *,
        retry: RetryPolicy,
        prefetch: int,
        parallelism: int,
        max_body_bytes: int,
        max_header_bytes: int,
        name: str,
        observer: BusObserver | None,
        on_end: Callable[[MemoryConsumption], None],
    ) -> None:
        self.credit = prefetch
        self._broker = broker
        self._queue = queue
        self._handler = handler
        self._retry = retry
        self._room = Room(parallelism)
        #: Of what an earlier process left, no more than this can have been in somebody's hands.
        self._doubtful = prefetch
        self._max_body_bytes = max_body_bytes
        self._max_header_bytes = max_header_bytes
        self._name = name
        self._observer = observer
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        # Handlers run in the subscriber's context, never in that of whoever happened to publish.
        self._context = contextvars.copy_context()
        self._waiting: deque[Stored] = deque()
        self._tasks: dict[Stored, asyncio.Task[None]] = {}
        self._settling: set[Stored] = set()
        self._unsettled: list[Stored] = []
        self._ended = False
        self._cut = False
        self._idle = asyncio.Event()

    @property
    def address(self) -> str:
        """The queue's name."""
        return self._queue.name

    def start(self) -> None:
        """Begin to compete for the queue's messages."""
        self._queue.join(self)

    def take(self, stored: Stored) -> None:
        """Have a delivery in hand: begin with it, or keep it until another is done."""
        self.credit -= 1
        if not self._waiting and self._room.admit(stored.returns > 0 and self._is_alone(stored)):
            self._begin(stored)
        else:
            self._waiting.append(stored)

    async def stop(self, *, timeout: float) -> int:
        """See `Consumption.stop`; what nobody began to handle goes back at once."""
        returned = self._end()
        if self._tasks and timeout > 0:
            try:
                async with asyncio.timeout(timeout):
                    await self._idle.wait()
            except TimeoutError:
                pass
        tasks = dict(self._tasks)
        for stored, task in tasks.items():
            if stored not in self._settling:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks.values())
        # A task that is cancelled before its first step never reaches its `finally`.
        unsettled = [*self._unsettled, *self._tasks]
        self._unsettled.clear()
        self._tasks.clear()
        if self._queue.watch:
            self._broker.drop(self._queue)
        else:
            self._queue.give_back(unsettled)
        return returned + len(unsettled)

    def cut(self) -> None:
        """End as if the process had been killed: handlers are cancelled, what they held goes back, nothing is settled."""
        held = [stored for stored in self._tasks if stored not in self._settling] + list(self._waiting)
        self._waiting.clear()
        self._cut = True
        self._end()
        for task in [self._tasks[stored] for stored in held if stored in self._tasks]:
            task.cancel()
        if self._queue.watch:
            self._broker.drop(self._queue)
        else:
            self._queue.give_back(held)

    def _end(self) -> int:
        """Take nothing more; give back what nobody began to handle. Returns how many those were."""
        if self._ended:
            return 0
        self._ended = True
        self.credit = 0
        self._queue.leave(self)
        waiting = list(self._waiting)
        self._waiting.clear()
        self._on_end(self)
        if not self._tasks:
            self._idle.set()
        if waiting and not self._queue.watch:
            self._queue.give_back(waiting)
        return len(waiting)

    def _is_alone(self, stored: Stored) -> bool:
        return not stored.loaded or self._doubtful > 0

    def _begin(self, stored: Stored) -> None:
        if stored.loaded:
            self._doubtful -= 1
        self._tasks[stored] = self._loop.create_task(self._handle(stored), context=self._context.copy())

    async def _handle(self, stored: Stored) -> None:
        settled = False
        try:
            unhandled = self._without_handler(stored)
            outcome = unhandled or await self._with_handler(stored)
            if not self._cut:
                self._settling.add(stored)
                if not self._queue.watch:
                    await self._broker.settle(self._queue, stored, outcome)
                settled = True
                # What only goes on waiting is no news.
                if self._observer and isinstance(outcome, Delay | Bury) and not isinstance(unhandled, Delay):
                    tell(self._observer, self._name, outcome)
        except MessagingError:
            _LOG.exception("delivery %s of %s could not be settled", stored.envelope.message_id, self.address)
            self._broker.postpone(self._queue, stored, _STORAGE_PAUSE)
            settled = True
        finally:
            # Reached without an outcome when the handler was cancelled, or the loop is being torn down.
            del self._tasks[stored]
            self._settling.discard(stored)
            self._room.leave()
            if not (settled or self._cut):
                self._return(stored)
            self._next()

    def _return(self, stored: Stored) -> None:
        if self._ended:
            # They go back together, so that they lie in their order.
            self._unsettled.append(stored)
        elif not self._queue.watch:
            self._queue.give_back((stored,))

    def _next(self) -> None:
        if self._ended:
            if not self._tasks:
                self._idle.set()
            return
        self.credit += 1
        waiting = self._waiting
        while waiting and self._room.admit(waiting[0].returns > 0 and self._is_alone(waiting[0])):
            self._begin(waiting.popleft())
        self._queue.dispatch()

    def _without_handler(self, stored: Stored) -> Outcome | None:
        """The outcome of a delivery that is not for the handler: unreadable, too large, returned too often, not due."""
        envelope, broker = stored.envelope, ""
        if stored.problem:
            verdict = DeadLetter(reason=f"the message cannot be read: {stored.problem}")
        elif may_be_large(envelope) and (size := header_bytes(envelope)) > self._max_header_bytes:
            envelope, cut = shrunk(envelope, self._max_header_bytes)
            verdict = refusal(size, self._max_header_bytes, cut)
        elif len(envelope.body) > self._max_body_bytes:
            reason = f"the body has {len(envelope.body)} bytes, this receiver takes at most {self._max_body_bytes}"
            verdict = DeadLetter(reason=reason, error_type=BodyTooLarge.__name__)
        elif stored.returns > _DELIVERY_LIMIT:
            reason = (
                f"{stored.returns} deliveries ended without being settled: handling it may be what kills its handlers"
            )
            verdict, broker = DeadLetter(reason=reason), "delivery_limit"
        elif envelope.due_ms is not None and not self._queue.watch:
            return still_waiting(envelope, self._broker.clock.now_ms())
        else:
            return None
        if self._queue.watch:
            _LOG.warning("watcher %s drops %s: %s", self.address, envelope.message_id, verdict.reason)
            return Forget()
        outcome = self._decide(envelope, verdict)
        if broker and isinstance(outcome, Bury):
            return Bury(outcome.envelope, dataclasses.replace(outcome.failure, broker=broker))
        return outcome

    async def _with_handler(self, stored: Stored) -> Outcome:
        envelope = stored.envelope
        if stored.returns:
            # Nobody counted what an earlier process did with it.
            envelope = envelope.replace(redelivered=True, returns=0 if stored.loaded else stored.returns)
        failed: BaseException | None = None
        try:
            verdict = await self._handler(envelope)
            if not isinstance(verdict, Ack | Retry | DeadLetter):
                raise TypeError(f"the handler returned {verdict!r} instead of a verdict")
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled it: it stumbled over something that was, and would again, at once and for ever.
            failed, verdict = exc, failed_attempt(exc)
        except Exception as exc:
            failed, verdict = exc, failed_attempt(exc)
        if self._queue.watch:
            if not isinstance(verdict, Ack):
                _LOG.warning("watcher %s drops %s: %s", self.address, envelope.message_id, verdict)
            return Forget()
        if failed is not None and isinstance(verdict, Retry):
            tell_failed(envelope, verdict, failed, queue=self.address)
        return self._decide(stored.envelope, verdict)

    def _decide(self, envelope: MessageEnvelope, verdict: Verdict) -> Outcome:
        return decide(envelope, verdict, self._retry, queue=self.address, now_ms=self._broker.clock.now_ms())
