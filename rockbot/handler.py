"""The one shape of everything that happens to a message: a link of a chain of responsibility.

A link may pass the event on (`await call_next(event, context)`), change it on the way, act before and after, or
short-circuit by not passing it on. Logging, deadlines, policies and the real work are all links.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from rockbot.context import Context
from rockbot.events.event import Event

__all__ = ["CallNext", "EventHandler"]

#: The rest of the chain. Raises `Unhandled` at its end.
CallNext = Callable[[Event, Context], Awaitable[None]]

E = TypeVar("E", bound=Event, contravariant=True)


class EventHandler(Protocol[E]):
    """One link.

    `handles` names the event classes it wants to see (`Event` itself: all of them). A link that does the work and returns
    has taken the event; raising `TemporaryFailure` or `PermanentFailure` decides the message's fate, any other exception
    is judged by the failure table. Everything it emits is published before the message is settled.
    """

    @property
    def handles(self) -> tuple[type[Event], ...]:
        """The event classes this link is asked about; fixed at construction."""
        ...

    async def handle(self, event: E, context: Context, call_next: CallNext) -> None:
        """Handle, or pass on."""
        ...
