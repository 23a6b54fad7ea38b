"""Where spans go: a port, so that nothing here knows a tracing library. The context is the envelope's W3C `traceparent`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Literal, Protocol, final

from rockbot_messaging.ports import (
    BusHealth,
    DeadLetters,
    MessageBus,
    MessageHandler,
    MessagePublisher,
    MessageSubscriber,
    WorkQueue,
)
from rockbot_messaging.subscriptions import WorkSubscription

__all__ = ["NO_TRACING", "Attributes", "Span", "SpanKind", "Tracing", "trace_id", "traced"]

SpanKind = Literal["internal", "client"]
Attributes = Mapping[str, str | bool | int | float | tuple[str, ...]]


def trace_id(traceparent: str | None) -> str:
    """The id of the trace that a context belongs to; "" is none."""
    if traceparent is None or len(traceparent) < 55 or traceparent[2] != "-" or traceparent[35] != "-":
        return ""
    return traceparent[3:35]


class Span(Protocol):
    """A span that is open."""

    def set(self, attributes: Attributes, /) -> None:
        """Add attributes."""
        ...

    def failed(self, error_type: str, /) -> None:
        """Say that what it spans failed, and how in one word."""
        ...


class Tracing(Protocol):
    """Where spans go. Must not block and must not raise."""

    def span(
        self, name: str, attributes: Attributes, /, *, kind: SpanKind = "internal"
    ) -> AbstractContextManager[Span]:
        """A span of what is done inside, child of the one around it. An exception that comes out of it fails it."""
        ...

    def processing(self, subscription: WorkSubscription, handler: MessageHandler, /) -> MessageHandler:
        """`handler` with a span around every message, child of the message's context, which it replaces."""
        ...

    def publishing(self, publisher: MessagePublisher, /) -> MessagePublisher:
        """`publisher` with a span for every durable message, child of the message's context, which it replaces."""
        ...

    def begun(self, traceparent: str | None, id: str, /) -> str | None:
        """The context of the span that `ended` will record under this id: what hangs under it needs it before."""
        ...

    def ended(
        self,
        id: str,
        name: str,
        attributes: Attributes,
        /,
        *,
        traceparent: str | None,
        began_ms: int,
        ended_ms: int,
        error_type: str = "",
    ) -> None:
        """Record a span of what went on over many messages; `traceparent` is what `begun` was given."""
        ...


@final
class _Nothing:
    def __enter__(self) -> _Nothing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def set(self, attributes: Attributes, /) -> None:
        pass

    def failed(self, error_type: str, /) -> None:
        pass


_NOTHING: Final = _Nothing()


@final
class _Nowhere:
    def span(self, _name: str, _: Attributes, /, *, kind: SpanKind = "internal") -> AbstractContextManager[Span]:  # noqa: ARG002
        return _NOTHING

    def processing(self, _: WorkSubscription, handler: MessageHandler, /) -> MessageHandler:
        return handler

    def publishing(self, publisher: MessagePublisher, /) -> MessagePublisher:
        return publisher

    def begun(self, traceparent: str | None, _: str, /) -> str | None:
        return traceparent

    def ended(
        self,
        id: str,
        name: str,
        attributes: Attributes,
        /,
        *,
        traceparent: str | None,
        began_ms: int,
        ended_ms: int,
        error_type: str = "",
    ) -> None:
        pass


#: Traces nothing: handlers and publishers stay what they are.
NO_TRACING: Final[Tracing] = _Nowhere()


def traced(bus: MessageBus, tracing: Tracing) -> MessageBus:
    """`bus` with a span for everything that is published by it; itself where nothing is traced."""
    return bus if tracing is NO_TRACING else _TracedBus(bus, tracing)


@final
class _TracedBus:
    def __init__(self, inner: MessageBus, tracing: Tracing) -> None:
        self.inner = inner
        self._publisher = tracing.publishing(inner.publisher)

    @property
    def publisher(self) -> MessagePublisher:
        return self._publisher

    @property
    def subscriber(self) -> MessageSubscriber:
        return self.inner.subscriber

    @property
    def dead_letters(self) -> DeadLetters:
        return self.inner.dead_letters

    async def open(self) -> None:
        await self.inner.open()

    async def declare(self, subscriptions: Iterable[WorkSubscription]) -> None:
        await self.inner.declare(subscriptions)

    async def queues(self) -> list[WorkQueue]:
        return await self.inner.queues()

    def health(self) -> BusHealth:
        return self.inner.health()

    async def close(self) -> None:
        await self.inner.close()
