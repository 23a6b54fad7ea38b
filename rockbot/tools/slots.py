"""How many calls of a tool run at a time: here, and over all replicas where a tool says so.

A slot is held until the work has really ended. A function in a thread cannot be stopped; if its slot were free as soon as its
call is over, every call that times out would add a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Callable
from typing import Any, Final, final

from rockbot.errors import TemporaryFailure
from rockbot.events.tools import ToolSpec
from rockbot.state.keys import Key, key
from rockbot.state.ports import Lease, StateError, StateStore

__all__ = ["Slot", "Slots"]

logger = logging.getLogger(__name__)

#: Seconds that a call waits here for a slot; then it is handed back, because another process may have one.
PATIENCE: Final = 5.0
#: Seconds that the slot of a killed process stays taken.
LEASE_SECONDS: Final = 15.0


@final
class Slot:
    """A place for one call. `close` gives it back unless something runs in it; then it is given back when that ends."""

    def __init__(self, *give_back: Callable[[], None]) -> None:
        self._give_back = list(give_back)
        self._busy = False

    def hold(self, work: asyncio.Future[Any]) -> None:
        """Keep the slot until `work` has ended, however long its caller waits."""
        self._busy = True
        work.add_done_callback(lambda _: self._end())

    def close(self) -> None:
        """The call is over, or was never begun."""
        if not self._busy:
            self._end()

    def _end(self) -> None:
        while self._give_back:
            self._give_back.pop()()


@final
class _Kept:
    """A lease that is prolonged until it is given back."""

    def __init__(self, store: StateStore, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        self._over = asyncio.Event()
        self._keeping = asyncio.create_task(self._keep(), name=f"keep {lease.name}")

    def give_back(self) -> None:
        self._over.set()

    async def _keep(self) -> None:
        lease = self._lease
        while True:  # also where it was given back before this began
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEASE_SECONDS / 3):
                    await self._over.wait()
            try:
                if self._over.is_set():
                    await self._store.release_lease(lease)
                    return
                if not await self._store.acquire_lease(Key(lease.name), owner=lease.owner, ttl=LEASE_SECONDS):
                    logger.warning("the slot of a running tool call was taken by another", extra={"slot": lease.name})
            except StateError as exc:
                logger.warning("a slot could not be kept", extra={"slot": lease.name, "error": str(exc)})
                if self._over.is_set():
                    return  # it runs out by itself


@final
class Slots:
    """The slots of one process. `threads` bounds what runs in threads, `owner` names the process in leases."""

    def __init__(self, store: StateStore, *, owner: str, threads: int) -> None:
        self._store = store
        self._owner = owner
        self._threads = asyncio.Semaphore(threads)
        self._tools: dict[str, asyncio.Semaphore] = {}
        self._taken = itertools.count(1)
        self._order = random.Random()  # noqa: S311 - spreads replicas over slots, no secret

    async def take(self, tool: ToolSpec, *, call_id: str, in_thread: bool) -> Slot:
        """A slot for one call.

        Raises:
            TemporaryFailure: there is none at the moment; costs no attempt. StateUnavailable: shared slots cannot be asked for.
        """
        give_back: list[Callable[[], None]] = []
        most = tool.max_concurrency
        try:
            if most is not None:
                own = self._tools.setdefault(tool.name, asyncio.Semaphore(most))
                give_back.append(await self._counted(own, tool))
            if in_thread:
                give_back.append(await self._counted(self._threads, tool))
            if most is not None and tool.across_replicas:
                give_back.append(await self._leased(tool, most, call_id))
        except BaseException:
            Slot(*give_back).close()
            raise
        return Slot(*give_back)

    async def _counted(self, semaphore: asyncio.Semaphore, tool: ToolSpec) -> Callable[[], None]:
        try:
            async with asyncio.timeout(PATIENCE):
                await semaphore.acquire()
        except TimeoutError:
            raise _busy(tool) from None
        return semaphore.release

    async def _leased(self, tool: ToolSpec, most: int, call_id: str) -> Callable[[], None]:
        # Each taking is an owner of its own: a copy of a running call must not give its slot back.
        owner = f"{self._owner} {call_id} {next(self._taken)}"
        for number in self._order.sample(range(most), most):
            name = key("host", "lease", "tool", tool.toolset, tool.name, str(number))
            lease = await self._store.acquire_lease(name, owner=owner, ttl=LEASE_SECONDS)
            if lease is not None:
                return _Kept(self._store, lease).give_back
        raise _busy(tool)


def _busy(tool: ToolSpec) -> TemporaryFailure:
    most = f" ({tool.max_concurrency} at a time)" if tool.max_concurrency is not None else ""
    return TemporaryFailure(f"as many calls of {tool.name} run as may{most}", after=1.0, counted=False)
