"""Acknowledgements gathered: a run of delivery tags that are all done is one frame with `multiple`.

An ack may wait a few milliseconds: after a crash those messages come again, which every consumer must stand anyway, and
in return client and broker save most of what acknowledging costs. Any other settlement is preceded by a flush.
"""

from __future__ import annotations

import asyncio
from typing import Final, final

from rockbot_messaging.rabbitmq.channel import Channel

__all__ = ["Acks"]

#: Seconds that an ack waits at most.
_DELAY: Final = 0.005


@final
class Acks:
    """The settlements of one channel's deliveries; tags count from 1 without gaps."""

    __slots__ = ("_ahead", "_base", "_batch", "_channel", "_loop", "_pending", "_timer", "_top")

    def __init__(self, channel: Channel, *, batch: int) -> None:
        self._channel = channel
        self._batch = batch
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        #: Every tag up to this one is done with; `_top` is the highest of them whose ack was not written yet.
        self._base = 0
        self._top = 0
        #: Done tags beyond the first gap, and whether their ack is still to be written.
        self._ahead: dict[int, bool] = {}
        self._pending = 0

    def ack(self, tag: int) -> None:
        """Acknowledge `tag`, soon."""
        self._done(tag, to_write=True)
        self._pending += 1
        if self._pending >= self._batch:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(_DELAY, self._late)

    def hand_back(self, tag: int) -> None:
        """Put `tag` back, now."""
        self.flush()
        self._channel.hand_back(tag)
        self._done(tag, to_write=False)

    def flush(self) -> None:
        """Write every ack that is waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._pending:
            return
        self._pending = 0
        if self._top:
            # The named tag must itself be unsettled, or the broker closes the channel; hence `_top` and not `_base`.
            self._channel.ack(self._top, multiple=True)
            self._top = 0
        for tag, to_write in self._ahead.items():
            if to_write:
                self._channel.ack(tag)
                self._ahead[tag] = False

    def drop(self) -> None:
        """The channel is gone, its acks with it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pending = 0

    def _late(self) -> None:
        self._timer = None
        self.flush()

    def _done(self, tag: int, *, to_write: bool) -> None:
        if tag != self._base + 1:
            self._ahead[tag] = to_write
            return
        self._base = tag
        if to_write:
            self._top = tag
        ahead = self._ahead
        while ahead and self._base + 1 in ahead:
            self._base += 1
            if ahead.pop(self._base):
                self._top = self._base
