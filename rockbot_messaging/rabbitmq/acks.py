"""Acknowledgements gathered: a run of delivery tags that are all done is one frame with `multiple`.

An ack may wait a few milliseconds: after a crash those messages come again, which every consumer must stand anyway, and
in return client and broker save most of what acknowledging costs. Any other settlement is preceded by a flush.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, final

from rockbot_messaging.rabbitmq.channel import Channel

__all__ = ["Acks"]

_log = logging.getLogger("rockbot_messaging.rabbitmq")

#: Seconds that an ack waits at most.
_DELAY: Final = 0.005


@final
class Acks:
    """The settlements of one channel's deliveries; tags count from 1 without gaps."""

    __slots__ = ("_batch", "_channel", "_gaps", "_highest", "_loop", "_timer", "_waiting")

    def __init__(self, channel: Channel, *, batch: int) -> None:
        self._channel = channel
        self._batch = batch
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        #: Done, and the ack still to be written.
        self._waiting: list[int] = []
        #: The highest tag that is done, and in their order those below it that are not: never more than the prefetch.
        self._highest = 0
        self._gaps: dict[int, None] = {}

    def ack(self, tag: int) -> None:
        """Acknowledge `tag`, soon."""
        if not self._done(tag):
            return
        self._waiting.append(tag)
        if len(self._waiting) >= self._batch:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(_DELAY, self.flush)

    def hand_back(self, tag: int) -> None:
        """Put `tag` back, now."""
        self.flush()
        if self._done(tag):
            self._channel.hand_back(tag)

    def flush(self) -> None:
        """Write every ack that is waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        first_gap = next(iter(self._gaps), None)
        if first_gap is None:
            self._channel.ack(max(waiting), multiple=True)
            return
        # The named tag must itself be unsettled, or the broker closes the channel.
        below = max((tag for tag in waiting if tag < first_gap), default=0)
        if below:
            self._channel.ack(below, multiple=True)
        for tag in waiting:
            if tag > first_gap:
                self._channel.ack(tag)

    def _done(self, tag: int) -> bool:
        """Note that `tag` is settled; False if it was before, because a second time would end the channel."""
        if tag == self._highest + 1:
            self._highest = tag
        elif tag > self._highest:
            self._gaps.update(dict.fromkeys(range(self._highest + 1, tag)))
            self._highest = tag
        elif tag in self._gaps:
            del self._gaps[tag]
        else:
            _log.error("delivery %d was to be settled twice", tag)
            return False
        return True
