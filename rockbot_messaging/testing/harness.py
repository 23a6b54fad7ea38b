"""What a provider lends to the conformance suite: connections, accidents, strangers and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import HeaderValue, MessageEnvelope
from rockbot_messaging.letters import Letter
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.testing.ids import SequenceIds

__all__ = [
    "DEFAULT_BODY_LIMIT",
    "Features",
    "Harness",
    "Passing",
    "buried",
    "depth",
    "message",
    "pass_time_until",
    "waiting",
]

#: Bytes; what the cases that are not about the limit connect with.
DEFAULT_BODY_LIMIT: Final = 16 * 1024 * 1024

_PATIENCE: Final = 60.0
_TICK: Final = 0.25


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Where providers may differ.

    Args:
        user_id: the user that the broker vouches for on messages published through `connect`; None if it does not.
        timestamp_precision_ms: what a timestamp is truncated to on its way.
    """

    user_id: str | None = None
    timestamp_precision_ms: int = 1000


class Passing(Protocol):
    """Something whose time goes by."""

    async def advance(self, seconds: float) -> None:
        """Let time go by on the provider's clock (a real broker: wait), and let what became due begin."""
        ...


class Harness(Passing, Protocol):
    """One broker of the provider under test, empty at the start of each case.

    Connections that a case leaves open are closed by whoever made the harness.
    """

    @property
    def features(self) -> Features: ...

    @property
    def clock(self) -> Clock:
        """The provider's clock; `advance` moves it."""
        ...

    async def connect(self, *, max_body_bytes: int = DEFAULT_BODY_LIMIT) -> MessageBus:
        """Another connection to the same broker, opened: another process, as far as the broker can tell."""
        ...

    async def kill(self, bus: MessageBus) -> None:
        """End a connection as ``kill -9`` of its process would: nothing is settled, nothing is said goodbye to.

        Its handlers run no further and settle nothing.
        """
        ...

    async def publish_foreign(
        self,
        topic: str,
        body: bytes,
        *,
        reply_to: str | None = None,
        correlation_id: str | None = None,
        message_id: str | None = None,
        content_type: str | None = None,
        headers: Mapping[str, HeaderValue] | None = None,
        app_id: str | None = None,
    ) -> None:
        """Publish at the public door as a client that knows nothing of this package; returns when it is stored."""
        ...

    async def publish_garbage(self, topic: str) -> None:
        """Publish at the public door a message whose properties cannot be read as an envelope."""
        ...


_IDS: Final = SequenceIds(series=0xC0)


def message(topic: str, body: bytes = b"{}", **fields: Any) -> MessageEnvelope:
    """An envelope for a case, with an id that no other case uses."""
    given: dict[str, Any] = {"message_id": _IDS.new_id(), "type": "contract.case", "source": "contract", **fields}
    return MessageEnvelope(topic=topic, body=body, **given)


async def depth(bus: MessageBus, subscription: str) -> int:
    """Letters in the dead-letter queue of `subscription`.

    Raises:
        LookupError: the bus lists no such queue.
    """
    for queue in await bus.dead_letters.queues():
        if queue.subscription == subscription:
            return queue.depth
    raise LookupError(f"no dead-letter queue of {subscription!r} is listed")


async def buried(bus: MessageBus, subscription: str, count: int) -> list[Letter]:
    """Wait until `count` letters lie in the dead-letter queue of `subscription`, and return all that do.

    Raises:
        TimeoutError: fewer came in time.
    """
    found = -1
    try:
        async with asyncio.timeout(_PATIENCE):
            while (found := await depth(bus, subscription)) < count:  # noqa: ASYNC110 - a broker tells nobody
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise TimeoutError(f"{found} of {count} letters lie in the dead-letter queue of {subscription!r}") from None
    return await bus.dead_letters.letters(subscription)


async def waiting(bus: MessageBus, subscription: str, count: int) -> None:
    """Wait until `count` messages wait in the queue of `subscription`, which nobody consumes: a broker notices the end of a
    consumer in its own time.

    Raises:
        TimeoutError: it did not come to that in time.
    """
    async with asyncio.timeout(_PATIENCE):
        while True:
            (queue,) = [each for each in await bus.queues() if each.subscription == subscription]
            if (queue.ready, queue.consumers) == (count, 0):
                return
            await asyncio.sleep(0.002)


async def pass_time_until(harness: Passing, condition: Callable[[], bool]) -> None:
    """Let time go by in small ticks until `condition` holds.

    Raises:
        TimeoutError: it did not within a real minute.
    """
    async with asyncio.timeout(_PATIENCE):
        while not condition():
            await harness.advance(_TICK)
            await asyncio.sleep(0)
