"""Recovery and timers: what must happen although nobody sends a message.

Both run on every replica; the store decides who gets which row, so that together they do each thing about once. They
only publish, with the ids that were derived when the step was stored: whoever received the message before recognises it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, final

from rockbot.context import Emission
from rockbot.outbox import emission_of
from rockbot.outgoing import Outgoing
from rockbot.state.keys import key
from rockbot.state.ports import StateError, StateStore
from rockbot_messaging.errors import (
    BodyTooLarge,
    HeadersTooLarge,
    InvalidTopic,
    MessagingError,
    Undecodable,
    Unroutable,
)
from rockbot_messaging.packing import unpack

__all__ = ["OutboxRecovery", "TimerSweeper", "repeat"]

logger = logging.getLogger(__name__)

#: Rows read at once.
_BATCH: Final = 100
#: What is wrong with one message and says nothing of the next.
_ITS_OWN: Final = (BodyTooLarge, HeadersTooLarge, InvalidTopic, Undecodable, Unroutable)


@final
class OutboxRecovery:
    """Publishes again every command that was stored, is not answered, and was not touched for `idle` seconds."""

    def __init__(self, store: StateStore, outgoing: Outgoing, *, owner: str, idle: float = 30.0) -> None:
        self._store = store
        self._outgoing = outgoing
        self._owner = owner
        self._idle = idle

    async def run_once(self) -> int:
        """Work through what is open now; returns how many commands were published.

        A command that cannot be published for a reason of its own is logged and waits as if it had been sent; it holds up
        no other. One that nobody receives, and nobody waits for, has been sent: it is in the unrouted queue, from where it can
        be sent on, and each further try would put a copy beside it.

        Raises:
            StateUnavailable, MessagingError: what was not published stays open.
        """
        published = 0
        while True:
            rows = await self._store.claim_outbox(
                owner=self._owner, idle=self._idle, claim=2 * self._idle, limit=_BATCH
            )
            for row in rows:
                try:
                    await self._outgoing.send([emission_of(row)])
                    published += 1
                except _ITS_OWN as exc:
                    logger.warning(
                        "a command cannot be published",
                        extra={"message_id": row.id, "error": f"{type(exc).__name__}: {exc}"},
                    )
                    if not row.awaits_answer and not isinstance(exc, Unroutable):
                        continue  # marking would forget it
                await self._store.mark_sent([row.id])
            if len(rows) < _BATCH:
                break
        if published:
            logger.info("commands were published again", extra={"count": published})
        return published


@final
class TimerSweeper:
    """Publishes the message of every timer that is due, on the one replica that holds the lease."""

    def __init__(self, store: StateStore, outgoing: Outgoing, *, owner: str, lease_seconds: float = 15.0) -> None:
        self._store = store
        self._outgoing = outgoing
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._lease_name = key("host", "lease", "timers")

    async def run_once(self) -> int:
        """Publish what is due; returns how many timers fired, 0 also when another replica sweeps.

        The message of a timer that nobody receives is in the unrouted queue, from where it can be sent on: that timer has
        fired too. Other timers whose message cannot be published for a reason of its own are given up.

        Raises:
            StateUnavailable, MessagingError: timers that were not published stay due.
        """
        lease = await self._store.acquire_lease(self._lease_name, owner=self._owner, ttl=self._lease_seconds)
        if lease is None:
            return 0
        fired = 0
        while True:
            timers = await self._store.due(before_ms=await self._store.now_ms(), limit=_BATCH)
            for timer in timers:
                try:
                    await self._outgoing.send([Emission(unpack(timer.payload))])
                except _ITS_OWN as exc:
                    logger.warning(
                        "a timer fired for nobody",
                        extra={"timer": timer.id, "error": f"{type(exc).__name__}: {exc}"},
                    )
                await self._store.drop_timers([timer])
                fired += 1
            if len(timers) < _BATCH:
                return fired

    async def release(self) -> None:
        """Let another replica sweep at once. Raises StateUnavailable: it will in a few seconds."""
        lease = await self._store.acquire_lease(self._lease_name, owner=self._owner, ttl=self._lease_seconds)
        if lease is not None:
            await self._store.release_lease(lease)


async def repeat(name: str, act: Callable[[], Awaitable[object]], *, every: float, stop: asyncio.Event) -> None:
    """Await `act()` now and then every so many seconds until `stop`; its failures are logged and tried again.

    Unforeseen ones too, with their traceback: a host without timers would look healthy.
    """
    while not stop.is_set():
        try:
            await act()
        except (StateError, MessagingError) as exc:
            logger.warning("%s failed and is tried again", name, extra={"error": f"{type(exc).__name__}: {exc}"})
        except Exception:
            logger.exception("%s failed unexpectedly and is tried again", name)
        try:
            async with asyncio.timeout(every):
                await stop.wait()
        except TimeoutError:
            continue
