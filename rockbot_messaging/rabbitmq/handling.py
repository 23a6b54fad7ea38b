"""Runs handlers: how many at the same time, which of them alone (`rockbot_messaging.room`), and in what tasks.

Tasks are started for work that waits, not per delivery: handlers that never suspend run one after another in one task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, final

from rockbot_messaging.rabbitmq.acks import Acks
from rockbot_messaging.rabbitmq.channel import Channel
from rockbot_messaging.rabbitmq.wire import ContentIds, Delivery, returns_of
from rockbot_messaging.room import Room

__all__ = ["GivenUp", "Handling", "Item"]

#: Deliveries remembered at most; more than that are handled alone as any other that comes back.
_REMEMBERED: Final = 2000


@final
class Item:
    """A delivery and the channel on which it must be settled; `alone` says that nothing may run beside it."""

    __slots__ = ("acks", "alone", "channel", "delivery")

    def __init__(self, delivery: Delivery, channel: Channel, acks: Acks, *, alone: bool) -> None:
        self.delivery = delivery
        self.channel = channel
        self.acks = acks
        self.alone = alone


@final
class GivenUp:
    """Deliveries that this process had in hand and never began before it lost their channel.

    They come back marked as those that killed somebody do, and are innocent: nobody has worked on them, unless the broker
    counts more returns than this one.
    """

    def __init__(self) -> None:
        self._returns: dict[str, int] = {}

    def note(self, delivery: Delivery) -> None:
        """Expect `delivery` once more."""
        if len(self._returns) < _REMEMBERED:
            self._returns[ContentIds(delivery).new_id()] = returns_of(delivery) + 1
        else:
            # Whatever went to other processes never comes back here.
            self._returns.clear()

    def comes_back(self, delivery: Delivery) -> bool:
        """Whether a redelivery is one of them; asked once for each."""
        if not self._returns:
            return False
        return self._returns.pop(ContentIds(delivery).new_id(), None) == returns_of(delivery)


@final
class Handling:
    """Runs `work` for each offered item, at most `parallelism` at a time, in the order of offering.

    `work` handles its own failures; cancelled, it lets the cancellation through.
    """

    def __init__(
        self, work: Callable[[Item], Awaitable[None]], parallelism: int, *, on_idle: Callable[[], None]
    ) -> None:
        self._work = work
        self._room = Room(parallelism)
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Item] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False

    @property
    def active(self) -> int:
        """Items being worked on."""
        return self._room.active

    @property
    def idle(self) -> bool:
        """Whether nothing is being worked on, and nothing waits."""
        return not self._room.active and not self._ready

    def offer(self, item: Item) -> None:
        """Work on `item` when its turn comes."""
        self._ready.append(item)
        self._schedule()

    def withdraw(self) -> list[Item]:
        """Take back what was not begun."""
        items = list(self._ready)
        self._ready.clear()
        return items

    async def settled(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for what is being worked on."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)

    def cancel(self) -> int:
        """Cancel what is being worked on; returns how much it is."""
        for task in self._tasks:
            task.cancel()
        return self._room.active

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _may_begin(self) -> bool:
        return bool(self._ready) and self._room.has_place(self._ready[0].alone)

    def _pump(self) -> None:
        self._scheduled = False
        if self._may_begin():
            task = self._loop.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._ended)
            # By the next turn that task has either emptied the queue or is waiting for something.
            if len(self._ready) > 1:
                self._schedule()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "settling a delivery failed", "exception": exc, "task": task})
        if self._ready:
            self._schedule()

    async def _run(self) -> None:
        ready, room, work = self._ready, self._room, self._work
        while ready and room.admit(ready[0].alone):
            item = ready.popleft()
            try:
                await work(item)
            finally:
                room.leave()
                if item.alone:
                    # This task takes the next item; those behind it need tasks of their own again.
                    self._schedule()
        if not room.active and not ready:
            self._on_idle()
