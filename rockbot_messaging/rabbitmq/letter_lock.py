"""One look at a dead-letter queue at a time, broker-wide: what one process has in hand, another one would not see.

The lock is an exclusive queue. It belongs to the connection that declared it, so the broker itself takes it away when
that process dies; nobody has to remember or to time out anything.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, final

from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelLockedResource

from rockbot_messaging.errors import BrokerUnreachable, LettersBusy
from rockbot_messaging.rabbitmq.channel import ChannelLost
from rockbot_messaging.rabbitmq.connection import Link, Session, speaking
from rockbot_messaging.rabbitmq.settings import RabbitSettings

__all__ = ["LetterLock"]

_TIMEOUT: Final = 20.0
#: Seconds between two attempts; they grow from the one to the other.
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.15
#: Bytes of a queue's name.
_LONGEST_NAME: Final = 255


@final
class LetterLock:
    """Who may look at which queue."""

    def __init__(self, link: Link, settings: RabbitSettings) -> None:
        self._link = link
        self._settings = settings
        self._here: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def turn(self, queue: str) -> AsyncGenerator[None]:
        """One look of this process after the other.

        Raises:
            LettersBusy: the one before did not end in time.
        """
        here = self._here.setdefault(queue, asyncio.Lock())
        try:
            async with asyncio.timeout(self._settings.letters_wait):
                await here.acquire()
        except TimeoutError:
            raise LettersBusy(f"this process is at work on the letters of {queue}; try again") from None
        try:
            yield
        finally:
            here.release()

    async def claim(self, queue: str) -> Session:
        """Keep other processes from looking at `queue`; ends with `release`, or with the session that is returned.

        Raises:
            LettersBusy: another process did not let go in time.
            BrokerUnreachable: there is no connection, or it ended.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.letters_wait
        pause = _FIRST_PAUSE
        while True:
            session = await self._link.session(self._settings.connect_timeout)
            try:
                if await self._declare(session, queue):
                    return session
            except ChannelLost as exc:
                if session.stands or loop.time() >= deadline:
                    raise BrokerUnreachable(
                        f"RabbitMQ at {self._settings.address} does not answer a look at {queue}: {exc}"
                    ) from None
            if loop.time() >= deadline:
                raise LettersBusy(f"another process is at work on the letters of {queue}; try again")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def release(self, session: Session, queue: str) -> None:
        """Let others look; a session that ended has let go by itself."""
        if not session.stands:
            return
        try:
            channel = await session.channel(confirms=False)
            try:
                async with speaking(_TIMEOUT):
                    await channel.rpc.queue_delete(self._name(queue))
            finally:
                await channel.close()
        except (AMQPError, ChannelLost):
            # Whoever holds it without being able to say so must not hold it.
            session.cut()

    async def _declare(self, session: Session, queue: str) -> bool:
        channel = await session.channel(confirms=False)
        try:
            async with speaking(_TIMEOUT):
                await channel.rpc.queue_declare(self._name(queue), exclusive=True)
            return True
        except ChannelLockedResource:
            return False
        except ChannelAccessRefused as exc:
            raise BrokerUnreachable(f"RabbitMQ refuses the lock for a look at {queue}: {exc}") from None
        except AMQPError as exc:
            raise ChannelLost(str(exc) or type(exc).__name__) from exc
        finally:
            await channel.close()

    def _name(self, queue: str) -> str:
        prefix = f"{self._settings.namespace}.watch.letters-lock."
        if len((name := prefix + queue).encode()) <= _LONGEST_NAME:
            return name
        return prefix + hashlib.sha256(queue.encode()).hexdigest()[:32]
