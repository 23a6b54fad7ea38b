"""Dead letters as deliveries, and back: what a letter says, and the parcel that carries out its fate."""

from __future__ import annotations

from typing import Final, final

from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import HeaderValue, MessageEnvelope
from rockbot_messaging.errors import LetterNotFound, Undecodable
from rockbot_messaging.letters import Discard, Discarded, Failure, Fate, Letter, Restore, SendOn
from rockbot_messaging.ports import Door
from rockbot_messaging.rabbitmq.channel import Parcel
from rockbot_messaging.rabbitmq.failures import problem_of, read_failure
from rockbot_messaging.rabbitmq.fields import Properties
from rockbot_messaging.rabbitmq.publisher import Packer
from rockbot_messaging.rabbitmq.topology import Names
from rockbot_messaging.rabbitmq.wire import COUNTED, ContentIds, Delivery, envelope_of, properties_of

__all__ = ["LetterWire"]

_QUEUE: Final = "rockbot-discarded-queue"
_AT: Final = "rockbot-discarded-at"
_REASON: Final = "rockbot-discarded-reason"
_SCHEMA: Final = "rockbot-schema-version"
#: Bytes of a reason for discarding that are kept.
_LONGEST_REASON: Final = 2000


@final
class LetterWire:
    """Reads letters of one namespace and packs what becomes of them. `user` is what our own messages are signed with."""

    def __init__(self, packer: Packer, names: Names, clock: Clock, user: str) -> None:
        self._packer = packer
        self._names = names
        self._clock = clock
        self._user = user

    def id_of(self, delivery: Delivery) -> str:
        """The message id of a letter."""
        properties, problem = _readable(delivery)
        if properties.message_id and type((properties.headers or {}).get(_SCHEMA)) is int:
            return properties.message_id
        return self._decode(delivery, properties, problem)[0].message_id

    def read(self, queue: str, delivery: Delivery) -> Letter:
        """The letter in a delivery from a dead-letter queue; bytes that cannot be read are a letter, too."""
        properties, problem = _readable(delivery)
        envelope, problem = self._decode(delivery, properties, problem)
        keeper = queue in (self._names.unrouted, self._names.discarded)
        source = "" if keeper else queue.removesuffix(".dlq")
        failure = read_failure(properties, queue=source, topic=envelope.topic, timestamp_ms=envelope.timestamp_ms)
        if failure.topic != envelope.topic:
            envelope = envelope.replace(topic=failure.topic)
        return Letter(
            id=envelope.message_id,
            queue=queue,
            envelope=envelope,
            failure=failure,
            problem=problem_of(properties) or problem,
            discarded=_discarded(properties) if queue == self._names.discarded else None,
        )

    def carry_out(self, letter: Letter, fate: Fate) -> Parcel | None:
        """What must be stored before `letter` may be removed; None for nothing.

        Raises:
            BodyTooLarge, InvalidTopic, ValueError: it cannot be sent.
            LetterNotFound: it cannot be restored, because it does not say where it lay.
        """
        match fate:
            case SendOn(envelope):
                return self._sent_on(letter, envelope)
            case Discard(reason):
                beside: dict[str, HeaderValue] = {
                    _QUEUE: letter.queue,
                    _AT: self._clock.now_ms(),
                    _REASON: reason.encode("utf-8", "replace")[:_LONGEST_REASON].decode("utf-8", "ignore"),
                }
                return self._packer.for_grave(
                    letter.envelope, self._names.discarded, letter.failure, problem=letter.problem, beside=beside
                )
            case Restore():
                return self._packer.for_grave(
                    letter.envelope, self._where_it_lay(letter), letter.failure, problem=letter.problem
                )
            case _:
                return None

    def buried(self, queue: str, envelope: MessageEnvelope, failure: Failure, problem: str) -> Parcel:
        """A letter that no delivery stands behind.

        Raises:
            BodyTooLarge: it exceeds the limit.
        """
        self._packer.check_body(envelope, queue)
        return self._packer.for_grave(envelope, queue, failure, problem=problem)

    def _sent_on(self, letter: Letter, envelope: MessageEnvelope) -> Parcel:
        if envelope.body != letter.envelope.body:
            self._packer.check_body(envelope, letter.queue)
        if letter.queue == self._names.unrouted:
            exchange = self._names.exchange(Door.COMMANDS)
            return self._packer.for_exchange(envelope, exchange, mandatory=True, passed_on=True)
        return self._packer.for_queue(envelope, letter.queue.removesuffix(".dlq"), passed_on=True)

    def _where_it_lay(self, letter: Letter) -> str:
        queue = letter.discarded.queue if letter.discarded else ""
        ours = queue.startswith(f"{self._names.namespace}.") and queue.endswith(".dlq")
        if not ours and queue != self._names.unrouted:
            raise LetterNotFound(f"letter {letter.id} does not say in which dead-letter queue it lay")
        return queue

    def _decode(self, delivery: Delivery, properties: Properties, problem: str) -> tuple[MessageEnvelope, str]:
        # That somebody looked at it before is nothing that happened to the message.
        fresh = Delivery(
            delivery.tag, delivery.exchange, delivery.routing_key, delivery.properties, delivery.body, redelivered=False
        )
        if not problem:
            try:
                return envelope_of(fresh, properties, ContentIds(fresh), own_user=self._user), ""
            except Undecodable as exc:
                problem = str(exc)
        envelope = MessageEnvelope(
            topic=delivery.routing_key,
            body=delivery.body,
            message_id=ContentIds(fresh).new_id(),
            type="",
            content_type=properties.content_type or "application/octet-stream",
        )
        return envelope, problem


def _readable(delivery: Delivery) -> tuple[Properties, str]:
    """What can be read of a letter's properties, and what is wrong with them. The counts of looks at it are left out: they
    are not the letter's."""
    try:
        properties = properties_of(delivery)
    except Undecodable as exc:
        return Properties(), str(exc)
    if properties.headers and not COUNTED.isdisjoint(properties.headers):
        kept = {name: value for name, value in properties.headers.items() if name not in COUNTED}
        properties = properties._replace(headers=kept)
    return properties, ""


def _discarded(properties: Properties) -> Discarded | None:
    headers = properties.headers or {}
    queue, at_ms, reason = headers.get(_QUEUE), headers.get(_AT), headers.get(_REASON, "")
    if not isinstance(queue, str) or type(at_ms) is not int or not isinstance(reason, str):
        return None
    return Discarded(queue=queue, at_ms=at_ms, reason=reason)
