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

    LOGGING: Final = 100
    DEADLINE: Final = 200
    POLICY: Final = 500
    WORK: Final = 1000


@final
class Chain:
    """The links of a host, for every event of its registry."""

    def __init__(self, links: Iterable[tuple[int, str, EventHandler[Any]]], registry: EventRegistry) -> None:
        ordered = sorted(enumerate(links), key=lambda item: (item[1][0], item[0]))
        self._links = [(order, name, link) for _, (order, name, link) in ordered]
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
