"""How many deliveries are handled at the same time, and which of them must be alone.

A delivery that comes back was in some process's hands when that process died, perhaps because of it. It is handled
alone, so that if it kills this process too, its neighbours were not being worked on.

Tasks are started for work that waits, not per delivery: handlers that never suspend run one after another in one task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import final

from rockbot_messaging.rabbitmq.acks import Acks
from rockbot_messaging.rabbitmq.channel import Channel
from rockbot_messaging.rabbitmq.wire import Delivery

__all__ = ["Handling", "Item"]


@final
class Item:
    """A delivery and the channel on which it must be settled."""

    __slots__ = ("acks", "channel", "delivery")

    def __init__(self, delivery: Delivery, channel: Channel, acks: Acks) -> None:
        self.delivery = delivery
        self.channel = channel
        self.acks = acks


@final
class Handling:
    """Runs `work` for each offered item, at most `parallelism` at a time, in the order of offering.

    `work` handles its own failures; cancelled, it lets the cancellation through.
    """

    def __init__(
        self, work: Callable[[Item], Awaitable[None]], parallelism: int, *, on_idle: Callable[[], None]
    ) -> None:
        self._work = work
        self._parallelism = parallelism
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Item] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._active = 0
        self._alone = False
        self._scheduled = False

    @property
    def active(self) -> int:
        """Items being worked on."""
        return self._active

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
        return self._active

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _may_begin(self) -> bool:
        if not self._ready or self._alone or self._active >= self._parallelism:
            return False
        return self._active == 0 or not self._ready[0].delivery.redelivered

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
        while self._may_begin():
            item = self._ready.popleft()
            self._active += 1
            self._alone = item.delivery.redelivered
            try:
                await self._work(item)
            finally:
                self._active -= 1
                if item.delivery.redelivered:
                    self._alone = False
                    # This task takes the next item; those behind it need tasks of their own again.
                    self._schedule()
        if not self._active and not self._ready:
            self._on_idle()
