"""Trying until it is stored: what an inbox decided must not be lost because a store or a broker is away for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, final

from rockbot.inbox.shelf import Grant, Shelf
from rockbot.state.ports import StateUnavailable
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BodyTooLarge, HeadersTooLarge, InvalidTopic, MessagingError
from rockbot_messaging.letters import Failure

__all__ = ["PAUSE", "Persistence"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two tries.
PAUSE: Final = 1.0
#: What is wrong with a letter and will not pass.
_NEVER: Final = (BodyTooLarge, HeadersTooLarge, InvalidTopic)


@final
class Persistence:
    """Tries again until it succeeds, or `stop` was called. `lease` is how many seconds a grant lasts."""

    def __init__(self, shelf: Shelf, *, lease: float, subscription: str) -> None:
        self._shelf = shelf
        self._lease = lease
        self._subscription = subscription
        self._stopped = False

    def stop(self) -> None:
        """Try each thing once more at most."""
        self._stopped = True

    async def stored(self, store: Callable[[], Awaitable[T]]) -> T:
        """Try until the store takes it. What needs a grant is refused (`Lost`) once somebody else works the line, so it may be
        tried beyond the lease: as long as nobody could take over, nothing has to be handled again.

        Raises:
            StateUnavailable: it did not before the end. And what `store` raises.
        """
        told = False
        while True:
            try:
                return await store()
            except StateUnavailable as exc:
                if self._stopped:
                    raise
                if not told:
                    told = True
                    logger.warning(
                        "an inbox waits until the store can be written",
                        extra={"subscription": self._subscription, "error": f"{type(exc).__name__}: {exc}"},
                    )
            await asyncio.sleep(PAUSE)

    async def buried(
        self, bury: Callable[[], Awaitable[None]], grant: Grant, dead: MessageEnvelope, failure: Failure
    ) -> bool:
        """Store a letter, however long the broker is away; False when it would never take it.

        Raises:
            Lost: somebody else works its line now. MessagingError: it did not succeed before the end.
        """
        told = False
        while True:
            try:
                await bury()
                return True
            except _NEVER as exc:
                logger.error(
                    "a dead letter cannot be stored and stays in its inbox",
                    extra={"message_id": dead.message_id, "why": failure.reason, "error": str(exc)},
                )
                return False
            except MessagingError as exc:
                if self._stopped:
                    raise
                if not told:
                    told = True
                    logger.warning(
                        "an inbox waits until its dead letter can be stored",
                        extra={"message_id": dead.message_id, "error": f"{type(exc).__name__}: {exc}"},
                    )
            await asyncio.sleep(min(PAUSE, self._lease / 3))
            await self._shelf.prolong(grant)
