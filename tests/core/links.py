"""Events and links for tests of the chain and the dispatcher."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

from rockbot.context import Context
from rockbot.events import Event
from rockbot.handler import CallNext
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import Door


class Ping(Event):
    type_name: ClassVar[str] = "test.ping"
    topics: ClassVar[tuple[str, ...]] = ("test.ping", "test.ping.*")
    text: str = ""


class Loud(Ping):
    type_name: ClassVar[str] = "test.loud"
    topics: ClassVar[tuple[str, ...]] = ()


class Pong(Event):
    type_name: ClassVar[str] = "test.pong"
    door: ClassVar[Door] = Door.PUBLIC
    text: str = ""


Act = Callable[[Event, Context, CallNext], Awaitable[None]]


class Link:
    """A link that does what it was given to do."""

    def __init__(self, act: Act, *handles: type[Event]) -> None:
        self._act = act
        self._handles = handles or (Event,)

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return self._handles

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        await self._act(event, context, call_next)


def envelope(body: bytes = b"{}", **fields: object) -> MessageEnvelope:
    return MessageEnvelope(**({"topic": "test.ping", "body": body, "message_id": "m1", "type": ""} | fields))  # type: ignore[arg-type]
