"""Everything that stands between the deliveries of a process and its handlers, put together in one order.

From the outside in, and why:

* *settled*: counts the verdict that is carried out, so it must see what the others made of it. The notice to whoever waits
  is sent here too: a step that an outage hands back has not come to its end.
* *outage*: before everything that takes something. A delivery that only waits must hold no slot and no token, and must not
  be marked as begun.
* *rate*: before the lane, so that nobody sits in a slot waiting for a token.
* *lane*: a slot is held while there is work.
* *poison*: around the handler alone, because its mark must say that it was really begun. A delivery that waited for a
  slot when the process died has done nothing.
* *span*: innermost, so that it is as long as the handling and not as the waits.

What a subscription does not ask for is not there; a plain one pays for two calls and a count on a first delivery.
"""

from __future__ import annotations

from typing import final

from rockbot_messaging.clock import Clock
from rockbot_messaging.measures import NO_MEASURES, Measures
from rockbot_messaging.ports import MessageHandler
from rockbot_messaging.regulation.guarding import Guarded
from rockbot_messaging.regulation.lanes import Laned, LaneGate
from rockbot_messaging.regulation.outages import OutageStatus
from rockbot_messaging.regulation.poison import Poison, StartMarks
from rockbot_messaging.regulation.rates import RateLimited
from rockbot_messaging.regulation.settled import Publish, Settled
from rockbot_messaging.subscriptions import Lane, WorkSubscription
from rockbot_messaging.tracing import NO_TRACING, Tracing

__all__ = ["Regulation"]


@final
class Regulation:
    """One process's. Lanes of the same group share their slots, whatever they are around.

    Args:
        clock: for waits.
        measures: where deliveries, outages, waits and poison are counted.
        marks: where starts of redelivered messages are marked; None lets only the broker's limit stop a message that kills.
        publish: sends the notice that a command died to its return address; None sends none.
        source: who sends it.
        tracing: where the span around each handling goes.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        measures: Measures = NO_MEASURES,
        marks: StartMarks | None = None,
        publish: Publish | None = None,
        source: str = "",
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._clock = clock
        self._measures = measures
        self._publish = publish
        self._source = source
        self._tracing = tracing
        self._poison = None if marks is None else Poison(marks, measures=measures)
        self._guards: list[Guarded] = []
        self._rates: list[RateLimited] = []
        self._gates: dict[str, LaneGate] = {}

    def around(self, subscription: WorkSubscription, handler: MessageHandler) -> MessageHandler:
        """`handler`, regulated as its subscription says. It raises nothing but cancellation.

        Raises:
            ValueError: another lane of the same group has another number of slots.
        """
        name, clock, measures = subscription.name, self._clock, self._measures
        handler = self._tracing.processing(subscription, handler)
        if self._poison is not None:
            handler = self._poison.around(name, handler)
        if subscription.lane is not None:
            handler = Laned(subscription.lane, self._gate(subscription.lane), handler).handle
        if subscription.rate is not None:
            limited = RateLimited(name, subscription.rate, handler, clock=clock, measures=measures)
            self._rates.append(limited)
            handler = limited.handle
        if subscription.guard is not None:
            guarded = Guarded(subscription, subscription.guard, handler, clock=clock, measures=measures)
            self._guards.append(guarded)
            handler = guarded.handle
        return Settled(
            subscription, handler, clock=clock, measures=measures, publish=self._publish, source=self._source
        ).handle

    def outages(self) -> list[OutageStatus]:
        """The subscriptions that only probe at present."""
        return [status for guard in self._guards if (status := guard.status()) is not None]

    def drain(self) -> None:
        """From here on nothing waits: deliveries that do are handed back, so that a process can stop at once."""
        waiting: list[Guarded | RateLimited | LaneGate] = [*self._guards, *self._rates, *self._gates.values()]
        for item in waiting:
            item.drain()

    def _gate(self, lane: Lane) -> LaneGate:
        gate = self._gates.setdefault(lane.group, LaneGate(lane.slots, clock=self._clock))
        if gate.slots != lane.slots:
            raise ValueError(f"lanes of the group {lane.group!r} disagree: {gate.slots} or {lane.slots} slots?")
        return gate
