"""The host: opens what it was given, consumes, drains, closes. It knows no handler and no provider by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Protocol, final

from rockbot.agents.roster import ReloadStatus
from rockbot.consuming import Consuming, LiveSubscriptions
from rockbot.errors import RockBotError
from rockbot.health import Health, HealthServer
from rockbot.machines.recovery import OutboxRecovery, TimerSweeper, repeat
from rockbot.plugins import Loop
from rockbot.presence import REFRESH_SECONDS, Presence
from rockbot.receiving import Receiving
from rockbot.settings import HostSettings
from rockbot.state.ports import StateError, StateStore
from rockbot.telemetry.exposition import tell_health, tell_queues
from rockbot.telemetry.process import Telemetry
from rockbot_messaging.errors import MessagingError
from rockbot_messaging.measures import NO_MEASURES
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.subscriptions import Subscription, WorkSubscription

__all__ = ["Host", "LetterKeeping"]

logger = logging.getLogger(__name__)

#: Seconds between two looks at the timers.
_TIMER_POLL = 0.5
#: Seconds between two looks at which subscriptions are wanted, when nobody says that they changed; and after one that failed.
_FOLLOW_SECONDS = 30.0
_FOLLOW_AGAIN = 2.0


class LetterKeeping(Protocol):
    """Writes down what the bus tells of dead letters, while it runs."""

    def start(self) -> None:
        """Begin; the store is open."""
        ...

    async def close(self) -> None:
        """Write what is left and end; idempotent."""
        ...


@final
class Host:
    """One process's share of the work.

    `start` returns when every subscription consumes; `drain` stops consuming, lets what is in hand finish within the
    drain time and hands the rest back; `close` disconnects. The bus and the store belong to the caller's composition: the
    host opens and closes them. `recorder` is what the bus tells of dead letters, `scan_letters` looks after them every so
    many seconds (0: never). `live` are subscriptions that may change while it runs, `agents` says how
    its agents stand. `warm_ups` are done when it is ready, beside its work. `telemetry` is what the process tells of itself.
    """

    def __init__(
        self,
        *,
        settings: HostSettings,
        bus: MessageBus,
        store: StateStore,
        receiving: Receiving,
        subscriptions: Sequence[Subscription],
        addressed: Sequence[WorkSubscription],
        recovery: OutboxRecovery,
        sweeper: TimerSweeper,
        owner: str,
        recorder: LetterKeeping | None = None,
        scan_letters: tuple[Callable[[], Coroutine[Any, Any, None]], float] | None = None,
        agents: Callable[[], ReloadStatus] | None = None,
        live: Sequence[LiveSubscriptions] = (),
        loops: Sequence[Loop] = (),
        warm_ups: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
        closers: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
        telemetry: Telemetry | None = None,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._store = store
        self._receiving = receiving
        self.consuming = Consuming(
            bus,
            receiving,
            subscriptions=subscriptions,
            addressed=addressed,
            live=live,
            drain_seconds=settings.drain_seconds,
        )
        self._recovery = recovery
        self._sweeper = sweeper
        self._recorder = recorder
        self._scan_letters = scan_letters
        self._contributed = tuple(loops)
        self._warm_ups = tuple(warm_ups)
        self._closers = tuple(closers)
        self._loops: list[asyncio.Task[None]] = []
        self._warming: asyncio.Task[None] | None = None
        self._when_warm: Callable[[], None] | None = None
        self._stop = asyncio.Event()
        self.health = Health(bus)
        self.health.watch(receiving.outages)
        self.health.agents = agents
        self.presence = Presence(
            store,
            bus,
            owner=owner,
            what="host",
            subscriptions=lambda: self.consuming.names,
            outages=self.health.outages,
            agents=agents,
        )
        self._telemetry = telemetry or Telemetry(NO_MEASURES)
        if (metrics := self._telemetry.exposition) is not None:
            metrics.add(lambda: tell_health(metrics.counters, bus.health, lambda: self.consuming.names))
        self._server = HealthServer(self.health, host=settings.health_host, port=settings.health_port, metrics=metrics)

    def when_warm(self, act: Callable[[], None]) -> None:
        """Have `act` done once the plug-ins' warm-ups are over. To be said before `start`."""
        self._when_warm = act

    async def start(self) -> None:
        """Open, declare, consume.

        Raises:
            StateUnavailable, BrokerUnreachable, TopologyMismatch: nothing runs; what was opened is closed again.
        """
        try:
            await self._server.start()
            await self._store.open()
            if self._recorder is not None:
                self._recorder.start()
            await self._bus.open()
            await self.consuming.start()
            await self._receiving.start()
        except BaseException:
            await self.close()
            raise
        self._repeat("outbox recovery", self._recovery.run_once, self._settings.recovery_seconds)
        self._repeat("timer sweep", self._sweeper.run_once, _TIMER_POLL)
        self._repeat("presence", self.presence.run_once, REFRESH_SECONDS)
        if self._scan_letters is not None and self._scan_letters[1] > 0:
            self._repeat("look after dead letters", *self._scan_letters)
        self._loops.append(asyncio.create_task(self._follow(), name="live subscriptions"))
        for loop in self._contributed:
            self._repeat(loop.name, loop.act, loop.every)
        if (metrics := self._telemetry.exposition) is not None and self._telemetry.queues_every > 0:
            look = partial(tell_queues, metrics.counters, self._bus, self.consuming.retired)
            self._repeat("count what waits", look, self._telemetry.queues_every)
        if self._telemetry.sends:
            self._repeat("send metrics", self._telemetry.push, self._telemetry.every)
        self.health.started = True
        logger.info("host consumes", extra={"subscriptions": self.consuming.names})
        if self._warm_ups or self._when_warm is not None:
            self._warming = asyncio.create_task(self._warm_up(), name="warm up")
            self._loops.append(self._warming)

    def _repeat(self, name: str, act: Callable[[], Coroutine[Any, Any, object]], every: float) -> None:
        self._loops.append(asyncio.create_task(repeat(name, act, every=every, stop=self._stop), name=name))

    async def _warm_up(self) -> None:
        for warm_up in self._warm_ups:
            try:
                await warm_up()
            except Exception:
                # Whatever it is comes back when the first message needs it.
                logger.warning("something could not be made ready in advance", exc_info=True)
        if self._when_warm is not None:
            self._when_warm()
        logger.info("host is warm")

    async def _follow(self) -> None:
        """Consume what plug-ins want from now on, soon after they say so."""
        while not self._stop.is_set():
            try:
                await self.consuming.follow()
            except (StateError, MessagingError, RockBotError) as exc:
                error = f"{type(exc).__name__}: {exc}"
                logger.warning("subscriptions could not be changed; it is tried again", extra={"error": error})
                await self.consuming.wait(self._stop, every=_FOLLOW_AGAIN)
            else:
                await self.consuming.wait(self._stop, every=_FOLLOW_SECONDS)

    async def drain(self) -> int:
        """Stop consuming and finish what is in hand; returns how many deliveries were handed back."""
        self.health.draining = True
        self._stop.set()
        self._receiving.drain()  # what only waits need not be waited for
        timeout = self._settings.drain_seconds
        handed_back = await asyncio.gather(self.consuming.stop(timeout=timeout), self._receiving.close(timeout=timeout))
        if self._warming is not None:
            self._warming.cancel()
        if self._loops:
            await asyncio.wait(self._loops, timeout=5)
            for loop in self._loops:
                loop.cancel()
            await asyncio.gather(*self._loops, return_exceptions=True)
            self._loops.clear()
            try:
                await self._sweeper.release()
                await self.presence.leave()
            except StateError as exc:
                logger.info("this host's lease or row ends by itself", extra={"error": f"{type(exc).__name__}: {exc}"})
        return sum(handed_back)

    async def close(self) -> None:
        """Drain if that was not done, and disconnect; idempotent."""
        async with AsyncExitStack() as closing:  # last in, first closed; one that fails keeps no other open
            closing.push_async_callback(self._telemetry.close)
            closing.push_async_callback(self._server.close)
            closing.push_async_callback(self._store.close)
            if self._recorder is not None:
                closing.push_async_callback(self._recorder.close)
            for close in (self._bus.close, *reversed(self._closers)):
                closing.push_async_callback(close)
            if self.consuming.active or self._loops:
                closing.push_async_callback(self.drain)

    async def run(self, stop: asyncio.Event) -> None:
        """Start, run until `stop` is set, drain, close. Raises what `start` raises."""
        await self.start()
        try:
            await stop.wait()
        finally:
            try:
                if handed_back := await self.drain():
                    logger.info(
                        "deliveries were handed back at the end of the drain time", extra={"count": handed_back}
                    )
            finally:
                await self.close()
