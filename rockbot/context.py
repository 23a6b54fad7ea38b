"""What a handler knows about the message in hand, and where it puts what it wants sent.

`emit` only collects: the dispatcher publishes after the chain has returned and before the message is settled, so a
handler that fails has sent nothing. Ids of emitted events are derived from this message's id and a name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import final

from rockbot.effects import Effects
from rockbot.errors import ConfigError, PermanentFailure
from rockbot.events.event import Event
from rockbot.state.keys import Key, key
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.identity import derive_id
from rockbot_messaging.ports import Door

__all__ = ["Context", "Emission"]


@final
@dataclass(frozen=True, slots=True)
class Emission:
    """One message to be sent: through a door, or, when `address` is set, to that one queue.

    `stored` says that it lies in an outbox already.
    """

    envelope: MessageEnvelope
    door: Door = Door.COMMANDS
    address: str = ""
    stored: bool = field(default=False, compare=False)


@final
class Context:
    """One message on its way through the chain. Not to be kept after the handler has returned.

    `traceparent` is the trace context of what is made here: the message's, unless a handler sets another.
    `remember` is for how many seconds its subscription remembers the ids of handled messages, None for not at all.
    """

    __slots__ = (
        "_effects",
        "_names",
        "after_publish",
        "clock",
        "emissions",
        "envelope",
        "remember",
        "source",
        "subscription",
        "traceparent",
    )

    def __init__(
        self,
        envelope: MessageEnvelope,
        *,
        clock: Clock,
        source: str,
        subscription: str = "",
        remember: float | None = None,
    ) -> None:
        self.envelope = envelope
        self.traceparent = envelope.traceparent
        self.clock = clock
        self.source = source
        self.subscription = subscription
        self.remember = remember
        self._effects: Effects | None = None
        self.emissions: list[Emission] = []
        self.after_publish: list[Callable[[], Awaitable[None]]] = []
        self._names: dict[str, int] = {}

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline (negative when it is over), None when there is none."""
        deadline = self.envelope.deadline_ms
        return None if deadline is None else (deadline - self.clock.now_ms()) / 1000

    def key(self, space: str, *parts: str) -> Key:
        """The state key of `parts` in `space`, of this message's tenant."""
        return key(self.envelope.tenant, space, *parts)

    @property
    def idempotency_key(self) -> str:
        """What names the handling of this message to another system, so that it can tell a repetition.

        The same for every delivery, attempt and copy of the message in this subscription, and for nothing else.
        """
        of = self.envelope
        return derive_id(of.message_id, f"handled by\x1f{self.subscription}", tenant=of.tenant)

    @property
    def effects(self) -> Effects:
        """What is to be written if this message succeeds, together with the mark that it was handled.

        Raises:
            ConfigError: nobody would write it; the text says which setting is missing.
        """
        if self._effects is None:
            name = self.subscription or "without a name"
            raise ConfigError(
                f"a handler has effects to write, and the subscription {name} does not remember its messages: set"
                f" 'subscriptions.\"{name}\".remember_seconds' to how long copies may come, with 'deduplication' among"
                " the 'handlers'"
            )
        return self._effects

    def collect_effects(self) -> None:
        """From here on effects are taken; whoever calls this stores them."""
        if self._effects is None:
            self._effects = Effects(self.envelope.tenant)

    def make(
        self,
        event: Event,
        *,
        topic: str,
        name: str | None = None,
        return_address: ReturnAddress | None = None,
        deadline_ms: int | None = None,
        correlation_id: str | None = None,
        conversation_id: str | None = None,
        root_task_id: str | None = None,
    ) -> MessageEnvelope:
        """The envelope of an event that this message causes; what is not given is inherited.

        `name` tells apart several events of one type caused by one message; without it they are numbered in the order
        they are made, which is only safe for handlers that always emit in the same order.
        """
        if name is None:
            number = self._names.get(event.type_name, 0)
            self._names[event.type_name] = number + 1
            name = f"{event.type_name}#{number}"
        cause = self.envelope
        return cause.caused(
            name,
            topic=topic,
            type=event.type_name,
            body=event.to_body(),
            source=self.source,
            timestamp_ms=self.clock.now_ms(),
            return_address=return_address,
            traceparent=self.traceparent,
            durable=event.door is not Door.LOSSY,
            deadline_ms=cause.deadline_ms if deadline_ms is None else deadline_ms,
            correlation_id=correlation_id or cause.correlation_id,
            conversation_id=conversation_id or cause.conversation_id,
            root_task_id=root_task_id or cause.root_task_id,
        )

    def emit(
        self,
        event: Event,
        *,
        topic: str,
        name: str | None = None,
        return_address: ReturnAddress | None = None,
        deadline_ms: int | None = None,
    ) -> MessageEnvelope:
        """Have an event published by its door once the chain has returned; returns its envelope."""
        envelope = self.make(event, topic=topic, name=name, return_address=return_address, deadline_ms=deadline_ms)
        self.emissions.append(Emission(envelope, event.door))
        return envelope

    def answer(self, event: Event, *, name: str = "answer") -> None:
        """Send a command's result to its return address, token included. A result has no deadline: it is welcome late.

        Raises:
            PermanentFailure: the command carries no return address.
        """
        address = self.envelope.return_address
        if address is None:
            raise PermanentFailure(f"a {self.envelope.type or 'command'} without a return address cannot be answered")
        envelope = self.make(event, topic=address.topic, name=name, return_address=address)
        self.emissions.append(Emission(envelope.replace(deadline_ms=None)))

    def send_again(self, emission: Emission) -> None:
        """Have a message published that was made before (from an outbox)."""
        self.emissions.append(replace(emission, stored=True))
