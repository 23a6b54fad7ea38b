"""Publishes envelopes: which exchange, which queue, and what becomes of a message that nobody receives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, final

from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import HeaderValue, MessageEnvelope
from rockbot_messaging.errors import BodyTooLarge, MessagingError, NotConfirmed, Unroutable
from rockbot_messaging.headers import MAX_PROPERTY_BYTES, check_headers
from rockbot_messaging.letters import Failure
from rockbot_messaging.ports import Door
from rockbot_messaging.rabbitmq.channel import Parcel
from rockbot_messaging.rabbitmq.failures import failure_headers
from rockbot_messaging.rabbitmq.fields import encode_properties
from rockbot_messaging.rabbitmq.sender import Sender
from rockbot_messaging.rabbitmq.settings import RabbitSettings
from rockbot_messaging.rabbitmq.topology import Names
from rockbot_messaging.rabbitmq.wire import to_properties
from rockbot_messaging.topics import check_topic

__all__ = ["Packer", "RabbitPublisher"]

#: Of the room that a frame leaves to properties, what headers beside a failure may take.
_BESIDE: Final = 4 * 1024
_NOTHING: Final[Mapping[str, HeaderValue]] = {}


@final
class Packer:
    """Makes parcels of envelopes, within the limits."""

    def __init__(self, settings: RabbitSettings) -> None:
        self._max_body = settings.max_body_bytes
        self._max_headers = settings.max_header_bytes
        self._max_failure = settings.max_failure_bytes
        self._user = settings.user if settings.sign else None

    @property
    def user(self) -> str | None:
        """How our messages are signed."""
        return self._user

    def check_body(self, envelope: MessageEnvelope, destination: str) -> None:
        """Refuse a body over the limit.

        Raises:
            BodyTooLarge: it is.
        """
        if len(envelope.body) > self._max_body:
            raise BodyTooLarge(
                f"message {envelope.message_id} for {destination!r} has a body of {len(envelope.body)} bytes, the limit "
                f"is {self._max_body}: send a reference instead"
            )

    def for_exchange(
        self, envelope: MessageEnvelope, exchange: str, *, mandatory: bool, passed_on: bool = False
    ) -> Parcel:
        """A parcel by its topic; one that is `passed_on` keeps the user it came from.

        Raises:
            InvalidTopic, BodyTooLarge, HeadersTooLarge: see the publisher port.
        """
        return self._parcel(envelope, exchange, check_topic(envelope.topic), mandatory=mandatory, passed_on=passed_on)

    def for_queue(self, envelope: MessageEnvelope, queue: str, *, passed_on: bool = False) -> Parcel:
        """A parcel for the one queue of this name; it comes back when there is none.

        Raises:
            BodyTooLarge, HeadersTooLarge: see the publisher port.
        """
        return self._parcel(envelope, "", queue, mandatory=True, by_queue=True, passed_on=passed_on)

    def for_grave(
        self,
        envelope: MessageEnvelope,
        queue: str,
        failure: Failure,
        *,
        problem: str = "",
        beside: Mapping[str, HeaderValue] = _NOTHING,
    ) -> Parcel:
        """A parcel for a dead-letter queue, failure headers cut to what there is room for.

        Free headers that leave no room for the reason of the failure are dropped, and the problem says so. Headers `beside`
        the failure (at most 4 KiB) cut nothing, so that a letter that moves stays as it is.
        """
        bare = encode_properties(to_properties(envelope, user=self._user, by_queue=True, passed_on=True))
        room = min(self._max_failure, MAX_PROPERTY_BYTES - len(bare))
        if room < 4096:
            problem = f"{len(envelope.headers)} free headers were too large to keep beside the failure; {problem}"
            envelope = envelope.replace(headers={})
            room = self._max_failure
        extra = {**failure_headers(failure, budget=room, problem=problem), **beside}
        return self._parcel(envelope, "", queue, mandatory=True, by_queue=True, passed_on=True, extra=extra)

    def _parcel(
        self,
        envelope: MessageEnvelope,
        exchange: str,
        routing_key: str,
        *,
        mandatory: bool,
        by_queue: bool = False,
        passed_on: bool = False,
        extra: Mapping[str, HeaderValue] = _NOTHING,
    ) -> Parcel:
        if not passed_on:
            self.check_body(envelope, routing_key)
        properties = encode_properties(
            to_properties(envelope, user=self._user, by_queue=by_queue, passed_on=passed_on, extra=extra)
        )
        most = MAX_PROPERTY_BYTES + (_BESIDE if extra else 0) if passed_on else self._max_headers
        check_headers(len(properties), most, routing_key)
        return Parcel(exchange, routing_key, properties, envelope.body, mandatory, envelope.message_id)


@final
class RabbitPublisher:
    """`MessagePublisher` on RabbitMQ: every publish confirmed, commands mandatory."""

    def __init__(self, sender: Sender, packer: Packer, names: Names, clock: Clock) -> None:
        self._sender = sender
        self._packer = packer
        self._names = names
        self._clock = clock

    async def publish(self, envelope: MessageEnvelope, *, door: Door = Door.COMMANDS) -> None:
        """See `MessagePublisher.publish`. LOSSY messages are dropped while there is no connection."""
        await self.publish_many((envelope,), door=door)

    async def publish_many(self, envelopes: Sequence[MessageEnvelope], *, door: Door = Door.COMMANDS) -> None:
        """See `MessagePublisher.publish_many`: one write, confirms collected afterwards."""
        exchange, mandatory = self._names.exchange(door), door is Door.COMMANDS
        first: Exception | None = None
        good: list[MessageEnvelope] = []
        parcels: list[Parcel] = []
        for envelope in envelopes:
            try:
                parcels.append(self._packer.for_exchange(envelope, exchange, mandatory=mandatory))
                good.append(envelope)
            except (MessagingError, ValueError) as exc:
                first = first or exc
        if door is Door.LOSSY:
            await self._sender.deliver_lossy(parcels)
        elif parcels:
            for envelope, error in zip(good, await self._sender.deliver(parcels), strict=True):
                if isinstance(error, Unroutable):
                    error = await self._keep(envelope, error)
                first = first or error
        if first is not None:
            raise first

    async def send(self, envelope: MessageEnvelope, *, address: str) -> None:
        """See `MessagePublisher.send`."""
        if not 0 < len(address.encode()) <= 255:
            raise Unroutable(address, f"{address[:80]!r} is no queue name: AMQP allows 1 to 255 bytes")
        (error,) = await self._sender.deliver([self._packer.for_queue(envelope, address)])
        if isinstance(error, Unroutable):
            raise Unroutable(envelope.topic, f"there is no queue {address!r} (any more)")
        if error is not None:
            raise error

    async def _keep(self, envelope: MessageEnvelope, error: Unroutable) -> MessagingError:
        """Store a returned command in the unrouted queue; the error to raise."""
        failure = Failure(
            reason=str(error),
            queue="",
            topic=envelope.topic,
            at_ms=self._clock.now_ms(),
            attempt=envelope.attempt,
            error_type=type(error).__name__,
            history=envelope.history,
        )
        # It never came from a broker that could have said whose it is: it is ours.
        parcel = self._packer.for_grave(envelope.replace(user_id=self._packer.user), self._names.unrouted, failure)
        (kept,) = await self._sender.deliver([parcel])
        if isinstance(kept, Unroutable):
            # Somebody deleted the unrouted queue.
            try:
                await self._sender.restore()
            except MessagingError as exc:
                return exc
            (kept,) = await self._sender.deliver([parcel])
        if isinstance(kept, Unroutable):
            return NotConfirmed(f"{error}, and there is no queue {self._names.unrouted!r} to keep the message in")
        return kept or error
