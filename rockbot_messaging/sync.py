"""Publishing from programs that are not asynchronous, from as many threads as they like.

This is the one place where threads and the event loop meet: each publisher owns a daemon thread with a loop, and its bus
lives there. Nothing is shared between publishers, and nothing is kept at module level.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Self, TypeVar, Unpack, final

from rockbot_messaging.connecting import BusOptions, bus_at
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Closed
from rockbot_messaging.ports import BusHealth, Door, MessageBus
from rockbot_messaging.requests import Requests

__all__ = ["Forked", "SyncPublisher"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that closing may take before the thread is left to end by itself.
_PATIENCE: Final = 15.0


class Forked(Closed):
    """A publisher that was opened before a fork is used in the child: connections do not survive that."""


@final
class SyncPublisher:
    """A blocking publisher; a context manager.

    Any thread may use it, any number of them at the same time. Exceptions are those of the ports. A call that is
    interrupted (Ctrl-C) leaves it usable; what was being published may be stored or not. It does not survive a fork: a child
    process opens its own.

    Args:
        bus: an address (see `rockbot_messaging.connecting.bus_at`), or a function that makes a bus, called in the publisher's
            thread; that bus is opened, used and closed there alone.
        options: for an address: `namespace`, `connect_timeout`, `signer`, `artifacts`, `threshold`.
    """

    def __init__(self, bus: str | Callable[[], MessageBus], **options: Unpack[BusOptions]) -> None:
        if callable(bus):
            if options:
                raise TypeError("options belong to an address; a function makes its bus as it likes")
            make = bus
        else:
            make = _maker(bus, options)
        self._make = make
        self._bridge: _Bridge | None = None
        self._closed = False
        self._changing = threading.Lock()

    def open(self) -> Self:
        """Connect.

        Raises:
            BrokerUnreachable: not in time, or refused. ValueError, ProviderMissing: the address is none.
            Closed: it was closed; make another one. Forked: it was opened in a parent process.
        """
        with self._changing:
            if self._closed:
                raise Closed("this publisher was closed; make another one")
            if self._bridge is not None:
                self._bridge.check_caller()
            else:
                bridge = _Bridge(self._make)
                bridge.start()
                self._bridge = bridge
                # The bridge must not know its publisher, or neither would ever be collected.
                weakref.finalize(self, _dropped, bridge).atexit = False
        return self

    def close(self) -> None:
        """Disconnect; calls that still wait end with `Closed`. Idempotent, from any thread. In a forked child: nothing."""
        bridge = self._bridge
        if bridge is not None and bridge.is_forked:
            return  # a thread of the parent may have held the lock when it forked
        with self._changing:
            self._closed = True
            bridge = self._bridge
        if bridge is not None:
            bridge.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, envelope: MessageEnvelope, *, door: Door = Door.COMMANDS) -> None:
        """See `MessagePublisher.publish`; returns when the message is stored."""
        bridge = self._running()
        bridge.wait(bridge.bus.publisher.publish(envelope, door=door))

    def publish_many(self, envelopes: Sequence[MessageEnvelope], *, door: Door = Door.COMMANDS) -> None:
        """See `MessagePublisher.publish_many`."""
        bridge = self._running()
        bridge.wait(bridge.bus.publisher.publish_many(envelopes, door=door))

    def send(self, envelope: MessageEnvelope, *, address: str) -> None:
        """See `MessagePublisher.send`."""
        bridge = self._running()
        bridge.wait(bridge.bus.publisher.send(envelope, address=address))

    def request(self, envelope: MessageEnvelope, *, timeout: float, door: Door = Door.COMMANDS) -> MessageEnvelope:
        """Publish a request and return its reply. See `rockbot_messaging.requests.Requests.request`.

        Raises:
            TimedOut: no reply within `timeout` seconds. Unroutable: nobody receives it.
        """
        bridge = self._running()
        return bridge.wait(bridge.request(envelope, timeout=timeout, door=door))

    def health(self) -> BusHealth:
        """How the connection is."""
        return self._running().bus.health()

    def _running(self) -> _Bridge:
        bridge = self._bridge
        if bridge is None or self._closed:
            raise Closed(
                "this publisher is closed" if self._closed else "this publisher is not open: use it in a `with` block"
            )
        bridge.check_caller()
        return bridge


@final
class _Bridge:
    """The thread, its loop, and the bus in it."""

    def __init__(self, make: Callable[[], MessageBus]) -> None:
        self._make = make
        self._owner = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._bus: MessageBus | None = None
        self._requests: Requests | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        #: Held while work is handed to the loop, and while the loop stops taking any.
        self._handing_over = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="rockbot publisher", daemon=True)

    @property
    def bus(self) -> MessageBus:
        if self._bus is None:
            raise Closed("this publisher is closed")
        return self._bus

    @property
    def is_forked(self) -> bool:
        """Whether this process is a child of the one it was made in."""
        return os.getpid() != self._owner

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to close, here or at all."""
        return self.is_forked or not self._thread.is_alive()

    def start(self) -> None:
        """Run until the bus is open; raises why it is not."""
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self.close()
            raise
        # Before the interpreter takes the loop's modules away.
        atexit.register(self.close)

    def check_caller(self) -> None:
        """Refuse callers that would wait for ever.

        Raises:
            Forked: this is another process. RuntimeError: this is the thread that would have to do the work.
        """
        if self.is_forked:
            raise Forked(
                f"this publisher was opened in process {self._owner} and this is its child {os.getpid()}:"
                " connections do not survive a fork; open a publisher in the child"
            )
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError(
                "a blocking publisher cannot be used inside its own event loop: it would wait for itself"
            )

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, done in the loop.

        A caller that is interrupted leaves the work to end by itself: it is bounded by the provider's time limits.
        """
        tracked = self._tracked(work)
        with self._handing_over:
            loop = self._loop
            if loop is None:
                tracked.close()
                work.close()
                raise Closed("this publisher is closed")
            future = asyncio.run_coroutine_threadsafe(tracked, loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Closed("the publisher was closed while this was under way; it may or may not be stored") from None

    async def request(self, envelope: MessageEnvelope, *, timeout: float, door: Door) -> MessageEnvelope:
        if self._requests is None:
            self._requests = Requests(self.bus)
        await self._requests.open()
        return await self._requests.request(envelope, timeout=timeout, door=door)

    def close(self, *, join: bool = True) -> None:
        """Have the thread end, and wait for that unless this is that thread."""
        atexit.unregister(self.close)
        if self.is_over:
            return
        with self._handing_over:
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
        if join and threading.get_ident() != self._thread.ident:
            self._thread.join(_PATIENCE)

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            return await work
        finally:
            if task is not None:
                self._tasks.discard(task)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            if self._started.done():
                logger.warning("a publisher did not end as it should", exc_info=True)
            else:
                self._started.set_exception(exc)

    async def _serve(self) -> None:
        stop = asyncio.Event()
        with self._handing_over:
            self._loop, self._stop = asyncio.get_running_loop(), stop
        bus: MessageBus | None = None
        try:
            bus = self._make()
            await _unless(stop, bus.open())
            self._bus = bus
            self._started.set_result(None)
            await stop.wait()
        finally:
            with self._handing_over:
                self._loop = None  # nobody hands anything over from here on
            await self._cancel_all()
            if self._requests is not None:
                await self._requests.close()
            if bus is not None:
                await bus.close()

    async def _cancel_all(self) -> None:
        """End what callers still wait for: nobody waits for a loop that has ended."""
        for _ in range(2):
            await asyncio.sleep(0)  # what was handed over last becomes a task, and that task begins
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _unless(stop: asyncio.Event, opening: Coroutine[Any, Any, None]) -> None:
    """Open, unless it is to stop meanwhile."""
    task = asyncio.create_task(opening)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
            raise Closed("this publisher was closed before it was open")
        await task
    finally:
        stopping.cancel()


def _maker(url: str, options: BusOptions) -> Callable[[], MessageBus]:
    return lambda: bus_at(url, **options)


def _dropped(bridge: _Bridge) -> None:
    if not bridge.is_over:
        warnings.warn(
            "a SyncPublisher was dropped without being closed: use it in a `with` block", ResourceWarning, stacklevel=2
        )
        bridge.close(join=False)
