"""Stores messages for certain, or says that it is not certain: confirms, reconnects and time limits in one place.

Everything that publishes goes through here: users, retries, dead letters, replays. A publish whose channel dies before
its confirm came is made again on the next one, with the same id; so it may be stored twice, but never not at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, final

from rockbot_messaging.errors import (
    BrokerUnreachable,
    Closed,
    MessagingError,
    NotConfirmed,
    TopologyMismatch,
    Unroutable,
)
from rockbot_messaging.rabbitmq.channel import Channel, ChannelLost, ChannelRetired, Nacked, Outcome, Parcel, Returned
from rockbot_messaging.rabbitmq.connection import Link, OpenChannel, Session
from rockbot_messaging.rabbitmq.pausing import Pauses
from rockbot_messaging.rabbitmq.settings import RabbitSettings

__all__ = ["Sender"]

_log = logging.getLogger("rockbot_messaging.rabbitmq")

#: Publishes that are written at once; the next ones wait for the confirms of these.
_BATCH: Final = 500

#: Seconds beyond its time limit that opening a channel may take, so that what it waits for can speak first.
_SLACK: Final = 0.5

#: Seconds that lossy messages wait for a channel on a standing connection.
_LOSSY_PATIENCE: Final = 1.0

#: Seconds that all pauses together last between offers of a message that the broker does not store, and each at first and at
#: most. A queue that is full refuses at once and stays full. One whose leader died refuses after 5 s each (3.10), so it gets
#: the time that it needs, up to the time limit for confirms.
_REFUSED_PATIENCE: Final = 6.0
_OFFER_AGAIN: Final = 0.1
_OFFER_AGAIN_AT_MOST: Final = 2.0

#: Seconds after which a channel that refuses is replaced by another. A channel on which a queue was first published to while
#: the queue's leader had just died refuses for ever (3.10): it keeps asking the dead one.
_REFUSING_AGE: Final = 1.0

#: Times a message may meet the end of its channel (not of the connection) before it is taken to be the cause.
_CHANNEL_DEATHS: Final = 2


@final
class Sender:
    """Publishes parcels on one confirming channel of a link, reopened as often as needed."""

    def __init__(self, link: Link, settings: RabbitSettings, prepare: Callable[[Session], Awaitable[None]]) -> None:
        self._link = link
        self._settings = settings
        self._prepare = prepare
        self._open: tuple[Session, OpenChannel] | None = None
        self._opened_at = 0.0
        self._opening = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._closed = False

    async def deliver(self, parcels: Sequence[Parcel]) -> list[MessagingError | None]:
        """Store all parcels; for each the error that it met, or None: `Unroutable` (mandatory ones), `NotConfirmed`,
        `BrokerUnreachable`, `TopologyMismatch` or `Closed`."""
        results: list[MessagingError | None] = [None] * len(parcels)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.confirm_timeout
        todo = list(range(len(parcels)))
        tried: set[int] = set()
        deaths = 0
        refused: list[int] = []
        rested = 0.0
        pauses = Pauses(_OFFER_AGAIN, _OFFER_AGAIN_AT_MOST)
        while todo:
            try:
                session, channel = await self._channel(deadline, in_flight=bool(tried))
                todo, reason = await self._round(session, channel, parcels, todo, results, deadline, tried, refused)
            except (BrokerUnreachable, Closed, TopologyMismatch) as exc:
                for index in todo:
                    results[index] = _unconfirmed(str(exc)) if index in tried else exc
                break
            except _Blocked as exc:
                for index in todo:
                    results[index] = _unconfirmed(str(exc)) if index in tried else _refused(str(exc))
                break
            if todo and reason and session.stands:
                deaths += 1
                if deaths >= _CHANNEL_DEATHS:
                    for index in todo:
                        results[index] = _unconfirmed(f"the broker closed the channel: {reason}")
                    break
            if refused:
                self._retire(channel)
                pause = pauses.next()
                rested += pause
                if rested < _REFUSED_PATIENCE and loop.time() + pause < deadline:
                    await asyncio.sleep(pause)
                    for index in refused:
                        results[index] = None
                    todo += refused
                refused.clear()
        return results

    async def deliver_lossy(self, parcels: Sequence[Parcel]) -> None:
        """Send without waiting for confirms; dropped while there is no connection, the broker blocks or the socket is
        far behind."""
        if self._closed:
            raise Closed("this publisher was closed")
        session = self._link.session_now
        if session is None or session.blocked or session.outbox.far_behind:
            _log.debug("dropped %d lossy messages: the broker does not take them now", len(parcels))
            return
        try:
            _, channel = await self._channel(asyncio.get_running_loop().time() + _LOSSY_PATIENCE)
        except (BrokerUnreachable, TopologyMismatch, _Blocked) as exc:
            _log.debug("dropped %d lossy messages: %s", len(parcels), exc)
            return
        for parcel in parcels:
            channel.publish_lossy(parcel)

    async def warm(self) -> None:
        """Open the channel, so that the first publish finds it."""
        await self._channel(asyncio.get_running_loop().time() + self._settings.connect_timeout)

    async def close(self) -> None:
        """Take nothing more."""
        self._closed = True
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._open is not None:
            await self._open[1].close()

    def _retire(self, refusing: Channel) -> None:
        """Have the next publish open another channel, unless this one is new; what it still owes confirms for keeps it."""
        if self._open is None or self._open[1].content is not refusing:
            return
        if asyncio.get_running_loop().time() - self._opened_at < _REFUSING_AGE:
            return
        task = asyncio.create_task(self._close_when_idle(self._open[1]), name="rabbitmq retired channel")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        self._open = None

    async def _close_when_idle(self, retired: OpenChannel) -> None:
        try:
            async with asyncio.timeout(self._settings.confirm_timeout):
                await retired.content.idle()
        except TimeoutError:
            pass  # whoever waits for these confirms has waited as long
        finally:
            retired.content.flush()
            retired.content.fail(ChannelRetired("it was exchanged for another"))
            await retired.close()

    async def _round(
        self,
        session: Session,
        channel: Channel,
        parcels: Sequence[Parcel],
        todo: list[int],
        results: list[MessagingError | None],
        deadline: float,
        tried: set[int],
        refused: list[int],
    ) -> tuple[list[int], str]:
        """Publish what is to do once; returns what met the end of the channel, and why it ended, and what was not begun
        because the broker blocks. Adds to `refused` what the broker did not store now."""
        again: list[int] = []
        reason = ""
        window = self._settings.confirm_window
        start = 0
        while start < len(todo):
            if session.blocked:
                # What is written now would lie in the socket, and nobody could say whether it was stored.
                return again + todo[start:], reason
            batch = todo[start : start + _BATCH]
            futures: list[asyncio.Future[Outcome]] = []
            try:
                async with asyncio.timeout_at(deadline):
                    if channel.outstanding >= window or channel.behind:
                        await channel.room(window)
                    batch = batch[: max(1, window - channel.outstanding)]
                    futures = channel.publish([parcels[index] for index in batch])
                    tried.update(batch)
                    for future in futures:
                        await future
            except TimeoutError:
                pass
            start += len(batch)
            for position, index in enumerate(batch):
                future_now = futures[position] if futures else None
                if future_now is None and index not in tried:
                    results[index] = _refused(f"{window} others wait for their confirms, and none came in time")
                    continue
                if future_now is None or not future_now.done() or future_now.cancelled():
                    results[index] = self._overdue(session)
                    continue
                outcome = future_now.result()
                if outcome is None:
                    continue
                if isinstance(outcome, ChannelLost):
                    again.append(index)
                    if not isinstance(outcome, ChannelRetired):
                        reason = str(outcome) or "it did not say why"
                elif isinstance(outcome, Returned):
                    results[index] = Unroutable(parcels[index].routing_key)
                else:
                    if isinstance(outcome, Nacked):
                        refused.append(index)
                    results[index] = NotConfirmed(f"message {parcels[index].message_id}: {outcome}")
        return again, reason

    async def _channel(self, deadline: float, *, in_flight: bool = False) -> tuple[Session, Channel]:
        if self._closed:
            raise Closed("this publisher was closed")
        opened = self._open
        if opened is not None and opened[1].content.lost is None and not opened[0].blocked:
            return opened[0], opened[1].content
        try:
            # Opening takes turns and talks to the broker; both may last.
            async with asyncio.timeout_at(deadline + _SLACK):
                return await self._reopen(deadline, in_flight=in_flight)
        except TimeoutError:
            session = self._link.session_now
            if session is not None and session.blocked:
                raise self._still_blocked() from None
            raise BrokerUnreachable(
                f"RabbitMQ at {self._settings.address} did not open a channel for publishing in time"
            ) from None

    async def restore(self) -> None:
        """Declare everything known again.

        Raises:
            BrokerUnreachable, Closed, TopologyMismatch: as for `deliver`.
        """
        session = await self._link.session(self._settings.connect_timeout)
        try:
            await self._prepare(session)
        except ChannelLost as exc:
            raise BrokerUnreachable(f"RabbitMQ at {self._settings.address} cannot be set up: {exc}") from None

    async def _reopen(self, deadline: float, *, in_flight: bool) -> tuple[Session, Channel]:
        loop = asyncio.get_running_loop()
        # Giving up what may be stored leaves its publisher not knowing; what was never written may fail sooner.
        patience = deadline - loop.time()
        if not in_flight:
            patience = min(self._settings.connect_timeout, patience)
        async with self._opening:
            while True:
                session = await self._link.session(patience)
                if session.blocked:
                    await self._wait_unblocked(session, deadline)
                if self._open is not None and self._open[1].content.lost is None and self._open[0] is session:
                    return session, self._open[1].content
                try:
                    await self._prepare(session)
                    channel = await session.channel(confirms=True)
                    self._open = (session, channel)
                    self._opened_at = loop.time()
                    return session, channel.content
                except ChannelLost as exc:
                    trouble = str(exc)
                if loop.time() >= deadline:
                    raise BrokerUnreachable(
                        f"RabbitMQ at {self._settings.address} does not keep a channel open for publishing: {trouble}"
                    )
                await asyncio.sleep(0.05)

    async def _wait_unblocked(self, session: Session, deadline: float) -> None:
        _log.warning("%s; waiting", self._blocking)
        unblocked = asyncio.create_task(session.unblocked())
        ended = asyncio.create_task(session.ended.wait())
        try:
            timeout = max(0.0, deadline - asyncio.get_running_loop().time())
            done, _ = await asyncio.wait((unblocked, ended), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            unblocked.cancel()
            ended.cancel()
        if not done:
            raise self._still_blocked()

    def _still_blocked(self) -> _Blocked:
        return _Blocked(f"{self._blocking} and did not let go within {self._settings.confirm_timeout:g} s")

    def _overdue(self, session: Session) -> NotConfirmed:
        why = f": {self._blocking}" if session.blocked else ""
        return _unconfirmed(f"no confirm within {self._settings.confirm_timeout:g} s{why}")

    @property
    def _blocking(self) -> str:
        return f"RabbitMQ at {self._settings.address} blocks publishers (short of memory or disk)"


class _Blocked(Exception):
    """The broker takes no publishes."""


def _refused(why: str) -> NotConfirmed:
    return NotConfirmed(f"{why}; nothing was sent")


def _unconfirmed(why: str) -> NotConfirmed:
    return NotConfirmed(f"{why}; it may or may not be stored: publish again with the same id")
