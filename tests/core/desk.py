"""A publisher of the tests' own: it writes down what it is given, and fails when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import Door


class Desk:
    """Implements `MessagePublisher`. `fails` says what goes wrong with a message, None when nothing does."""

    def __init__(self, fails: Callable[[MessageEnvelope], Exception | None] = lambda _: None) -> None:
        self.fails = fails
        self.published: list[tuple[Door | str, MessageEnvelope]] = []
        self.tried = 0

    @property
    def topics(self) -> list[str]:
        return [envelope.topic for _, envelope in self.published]

    @property
    def ids(self) -> list[str]:
        return [envelope.message_id for _, envelope in self.published]

    async def publish(self, envelope: MessageEnvelope, *, door: Door = Door.COMMANDS) -> None:
        self._take(door, envelope)

    async def publish_many(self, envelopes: Sequence[MessageEnvelope], *, door: Door = Door.COMMANDS) -> None:
        for envelope in envelopes:
            self._take(door, envelope)

    async def send(self, envelope: MessageEnvelope, *, address: str) -> None:
        self._take(address, envelope)

    def _take(self, where: Door | str, envelope: MessageEnvelope) -> None:
        self.tried += 1
        if (problem := self.fails(envelope)) is not None:
            raise problem
        self.published.append((where, envelope))
