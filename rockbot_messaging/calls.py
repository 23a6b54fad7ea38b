"""Make a call once: the result ledger around work that costs money or has effects.

A claim is short and renewed while the work runs, so that a worker that was killed blocks its call for seconds only. What
the work returned is written down before anybody hears of it, and the first result written is the one that counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, final

from rockbot_messaging.canceling import RunningCalls
from rockbot_messaging.errors import MessagingError
from rockbot_messaging.ledger import Begun, Busy, Finished, Refused, ResultLedger

__all__ = ["CLAIM_SECONDS", "CallBusy", "CallRefused", "LedgeredCalls"]

logger = logging.getLogger(__name__)

#: Seconds a claim lasts unless it is renewed; a killed worker's call waits that long at most.
CLAIM_SECONDS: Final = 5.0


@final
class CallBusy(MessagingError):
    """Somebody is at this call, perhaps this process; hand the message back for `seconds`, at no attempt's cost."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@final
class CallRefused(MessagingError):
    """The call must not be made any more; the text is the reason that was left for it."""


@final
class LedgeredCalls:
    """Makes calls through a ledger for one process.

    Args:
        ledger: where calls are written down.
        owner: names this process in claims.
        harmless: errors of the work after which it is certain that nothing was done: they give the claim back. After any
            other error the claim runs out by itself, and the next start is counted as one with an unknown past.
        cancelling_is_harmless: whether work that was cancelled certainly did nothing.
        claim_seconds: how long a claim lasts unless renewed.
        running: where running calls are found when they are to be stopped (None: nobody stops them but a tombstone).
    """

    def __init__(
        self,
        ledger: ResultLedger,
        *,
        owner: str,
        harmless: tuple[type[Exception], ...] = (),
        cancelling_is_harmless: bool = False,
        claim_seconds: float = CLAIM_SECONDS,
        running: RunningCalls | None = None,
    ) -> None:
        self._ledger = ledger
        self._owner = owner
        self._harmless = harmless
        self._cancelling_is_harmless = cancelling_is_harmless
        self._claim_seconds = claim_seconds
        self._running: set[tuple[str, str]] = set()
        self._stoppable = running if running is not None else RunningCalls()

    async def run(
        self, call_id: str, *, tenant: str, work: Callable[[int], Awaitable[bytes]], under: Sequence[str | None] = ()
    ) -> bytes:
        """The result of the call: from the ledger when it is finished, else of `work(starts)`.

        `starts` above 1 means that the call was begun before and nobody knows how that ended. The work is cancelled when
        the call is refused meanwhile. `under` are the ids of what it belongs to (root task, cause; None is nothing): what is
        refused for one of these is refused for the call.

        Raises:
            CallBusy: somebody is at it, this process included (a copy of its message arrived).
            CallRefused: it must not be made.
            Whatever the work raises, and whatever the ledger raises: nothing was begun, or the result is not written.
        """
        if (tenant, call_id) in self._running:
            # The ledger lets one owner begin again, so a second copy in this process is stopped here.
            raise CallBusy("this call is being made right now", seconds=self._claim_seconds)
        self._running.add((tenant, call_id))
        above = tuple(dict.fromkeys(each for each in under if each and each != call_id))
        try:
            start = await self._ledger.begin(
                call_id, tenant=tenant, owner=self._owner, claim_seconds=self._claim_seconds, under=above
            )
            match start:
                case Finished(result):
                    return result
                case Busy(seconds):
                    raise CallBusy("another worker is making this call", seconds=seconds)
                case Refused(reason):
                    raise CallRefused(reason)
                case Begun(starts):
                    return await self._work(call_id, tenant, starts, work, above)
        finally:
            self._running.discard((tenant, call_id))

    async def _work(
        self,
        call_id: str,
        tenant: str,
        starts: int,
        work: Callable[[int], Awaitable[bytes]],
        under: tuple[str, ...],
    ) -> bytes:
        task = asyncio.ensure_future(work(starts))
        refused: list[str] = []

        def stop(reason: str) -> None:
            refused.append(reason)
            task.cancel()

        renewal = _Later(self._claim_seconds / 3, partial(self._renew, call_id, tenant, stop, under))
        try:
            with self._stoppable.running(call_id, tenant=tenant, under=under, stop=stop):
                result = await task
        except asyncio.CancelledError:
            here = asyncio.current_task()
            if refused and here is not None and not here.cancelling():
                raise CallRefused(refused[0]) from None
            if self._cancelling_is_harmless:
                await self._ledger.release(call_id, tenant=tenant, owner=self._owner)
            raise
        except self._harmless:
            await self._ledger.release(call_id, tenant=tenant, owner=self._owner)
            raise
        finally:
            await renewal.cancel()
        return await self._ledger.finish(call_id, tenant=tenant, result=result)

    async def _renew(self, call_id: str, tenant: str, stop: Callable[[str], None], under: tuple[str, ...]) -> None:
        """Prolong the claim until cancelled; stops the work when the call was refused meanwhile."""
        while True:
            try:
                state = await self._ledger.renew(
                    call_id, tenant=tenant, owner=self._owner, claim_seconds=self._claim_seconds, under=under
                )
            except Exception as exc:
                # The claim guards against double work only; the result is still written by compare-and-set.
                logger.warning(
                    "a claim could not be renewed",
                    extra={"call_id": call_id, "error": f"{type(exc).__name__}: {exc}"},
                )
            else:
                if isinstance(state, Refused):
                    stop(state.reason)
                    return
            await asyncio.sleep(self._claim_seconds / 3)


@final
class _Later:
    """Something that begins after a while, unless it is cancelled: most calls end before, and pay for no task."""

    def __init__(self, seconds: float, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._act = act
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._act(), name="renew a claim")

    async def cancel(self) -> None:
        """End it; returns when it has ended."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
