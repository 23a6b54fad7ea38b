"""The chain: links composed once, outermost first, one closure per event type.

Composition happens at start and never again, so a dispatch costs one call per link that wants the event and no lookups;
the order is data that `rockbot pipeline` prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, final

from rockbot.context import Context
from rockbot.errors import Unhandled
from rockbot.events.event import Event
from rockbot.events.registry import EventRegistry
from rockbot.handler import CallNext, EventHandler

__all__ = ["Chain", "Order"]


class Order:
    """Where links stand: smaller is further out. Links of equal order keep the order of their registration."""

    TELEMETRY: Final = 50
    LOGGING: Final = 100
    DEADLINE: Final = 200
    DEDUPLICATION: Final = 300
    POLICY: Final = 500
    LIMITS: Final = 600
    WORK: Final = 1000


@final
class Chain:
    """The links of a host, for every event of its registry."""

    def __init__(self, links: Iterable[tuple[int, str, EventHandler[Any]]], registry: EventRegistry) -> None:
        ordered = sorted(enumerate(links), key=lambda item: (item[1][0], item[0]))
        self._links = [(order, name, link) for _, (order, name, link) in ordered]
        self._names = {id(link): name for _, name, link in self._links}
        self._composed: dict[type[Event], CallNext] = {event: self._compose(event) for event in registry}

    def _compose(self, event: type[Event]) -> CallNext:
        rest: CallNext = _end
        for _, _, link in reversed(self._links_for(event)):
            rest = _bind(link, rest)
        return rest

    def _links_for(self, event: type[Event]) -> Sequence[tuple[int, str, EventHandler[Any]]]:
        return [item for item in self._links if any(issubclass(event, wanted) for wanted in item[2].handles)]

    async def run(self, event: Event, context: Context) -> None:
        """Send an event through its links.

        Raises:
            Unhandled: no link took it. Whatever a link raises.
        """
        await self._composed.get(type(event), _end)(event, context)

    def blame(self, exc: BaseException) -> str:
        """The name of the innermost link that an exception came out of; "" when it came out of none.

        Read off the traceback, so that a message that is handled pays nothing for it.
        """
        blamed, at = "", exc.__traceback__
        while at is not None:
            code = at.tb_frame.f_code
            if code is _CALL:
                # A bound method, or whatever else a link has for `handle`.
                handle = at.tb_frame.f_locals.get("handle")
                blamed = self._names.get(id(getattr(handle, "__self__", None)), "")
            elif code is _end.__code__:
                blamed = ""  # nobody took it, which is not the fault of whoever passed it on last
            at = at.tb_next
        return blamed

    def describe(self) -> list[tuple[str, list[str]]]:
        """For every event type the names of its links, outermost first."""
        return [
            (event.type_name, [name for _, name, _ in self._links_for(event)])
            for event in sorted(self._composed, key=lambda event: event.type_name)
        ]


def _bind(link: EventHandler[Any], rest: CallNext) -> CallNext:
    handle = link.handle

    async def call(event: Event, context: Context) -> None:
        await handle(event, context, rest)

    return call


async def _end(event: Event, context: Context) -> None:
    raise Unhandled(f"no handler of this host takes {event.type_name} (topic {context.envelope.topic!r})")


@final
class _Nobody:
    """Stands in for a link where only the code that calls one is wanted; it is never run."""

    handles = ()

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        raise NotImplementedError


#: What the frames of all links have in common.
_CALL: Final = _bind(_Nobody(), _end).__code__
