"""Two hosts and the script service on one broker in memory, and a stranger who asks: everything that they tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, final

from opentelemetry.sdk.trace import ReadableSpan
from telemetry.decoding import decoded

from rockbot.container import HostContainer, compose
from rockbot.events import AgentResponse, AgentTask
from rockbot.settings import Settings
from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore
from rockbot.telemetry.process import Telemetry
from rockbot.telemetry.setup import traced_batches
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Counters, Distribution
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.ports import Door
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.subscriptions import WatchSubscription
from rockbot_messaging.testing import SequenceIds
from rockbot_messaging.tracing import NO_TRACING, traced
from rockbot_messaging.verdicts import Ack, Verdict
from rockbot_scripts.contract import ScriptInvoke, ScriptResult
from rockbot_scripts.service import ScriptService
from rockbot_scripts.settings import ScriptSettings

#: What the stranger's own span is.
STRANGER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Kept:
    """Keeps the spans it is sent."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def __call__(self, sent: bytes) -> bool:
        self.spans += decoded(sent)
        return True


class Sums:
    """A runner that knows one result."""

    async def start(self) -> None: ...

    async def run(
        self, invoke: ScriptInvoke, *, cancel: asyncio.Event | None = None, time_left: float | None = None
    ) -> ScriptResult:
        return ScriptResult(status="ok", value="42", engine="sums")

    def describe(self) -> Mapping[str, object]:
        return {"workers": {"size": 2, "ready": 1, "replaced": 3}}

    async def close(self) -> None: ...


@final
class Stage:
    """`agent` and `worker` are hosts, `scripts` a service; each counts for itself."""

    def __init__(self, *, traces: bool = True, **settings: Any) -> None:
        self.clock = SystemClock()
        self.exported = Kept()
        self.settings = Settings(model="scripted/demo", **settings)
        self.tracing, self.batches = traced_batches(self.settings, self.exported) if traces else (NO_TRACING, None)
        self.broker = MemoryBroker(namespace="rockbot", clock=self.clock, ids=SequenceIds(1))
        self.store = MemoryStateStore(self.clock)
        self.stranger = MemoryBus(broker=self.broker)
        self.answers: asyncio.Queue[tuple[MessageEnvelope, AgentResponse]] = asyncio.Queue()
        self.counts = {name: Counters() for name in ("agent", "worker", "scripts")}
        self.agent = self._host("agent", "telemetry", "deadline", "limits", "agent", "scripts")
        self.worker = self._host("worker", "telemetry", "limits", "llm", "tools")

    def _telemetry(self, name: str) -> Telemetry:
        return Telemetry(self.counts[name], self.tracing)

    def _host(self, name: str, *handlers: str) -> HostContainer:
        telemetry = self._telemetry(name)
        return compose(
            self.settings.model_copy(update={"handlers": handlers}),
            bus=traced(MemoryBus(broker=self.broker), telemetry.tracing),
            store=_Shared(self.store),  # type: ignore[arg-type]
            clock=self.clock,
            telemetry=telemetry,
        )

    def _service(self) -> ScriptService:
        telemetry = self._telemetry("scripts")
        bus = traced(MemoryBus(broker=self.broker), telemetry.tracing)
        self.scripts_bus = bus
        return ScriptService(
            Sums(),
            bus=bus,
            ledger=StateLedger(self.store),
            clock=self.clock,
            settings=ScriptSettings(workers=1),
            owner="scripts",
            regulation=Regulation(
                clock=self.clock, measures=telemetry.measures, publish=bus.publisher.publish, tracing=telemetry.tracing
            ),
            measures=telemetry.measures,
            tracing=telemetry.tracing,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        await self.store.open()
        await self.stranger.open()
        watch = WatchSubscription(name="stranger", patterns=("agent.response.*",))
        self.address = (await self.stranger.subscriber.subscribe(watch, self._hear)).address
        service = self._service()
        await self.scripts_bus.open()
        hosts = (self.worker.host(), self.agent.host())
        await service.start()
        # Their tools are offered by both, and run where their handler is.
        for host in hosts:
            await host.start()
        try:
            yield self
        finally:
            for host in reversed(hosts):
                await host.close()
            await service.stop(timeout=5)
            await self.scripts_bus.close()
            await self.stranger.close()
            if self.batches is not None:
                self.batches.close()

    async def _hear(self, envelope: MessageEnvelope) -> Verdict:
        self.answers.put_nowait((envelope, AgentResponse.model_validate_json(envelope.body)))
        return Ack()

    async def stop_worker(self) -> None:
        """Make no model calls any more."""
        await self.worker.host().close()

    async def tell(self, task: MessageEnvelope) -> None:
        """Send a task."""
        await self.stranger.publisher.publish(task, door=Door.PUBLIC)

    def task(self, text: str, *, traceparent: str | None, conversation_id: str | None = None) -> MessageEnvelope:
        """A task for the default agent, to be answered here."""
        return MessageEnvelope(
            topic="agent.task.assistant",
            body=AgentTask(input=text, mode="queue").to_body(),
            message_id=f"task-{text}",
            type="",
            traceparent=traceparent,
            conversation_id=conversation_id,
            reply_to=self.address,
        )

    async def ask(self, text: str, *, traceparent: str | None = STRANGER) -> tuple[MessageEnvelope, AgentResponse]:
        """What the default agent answers."""
        await self.tell(self.task(text, traceparent=traceparent))
        async with asyncio.timeout(60):
            return await self.answers.get()

    def spans(self) -> list[ReadableSpan]:
        """Everything that was traced and has ended."""
        assert self.batches is not None
        self.batches.flush()
        return self.exported.spans

    def counted(self, name: str, **labels: str) -> float:
        """A count of all processes together."""
        return sum(each.value(name, **labels) for each in self.counts.values())

    def observed(self, name: str, **labels: str) -> int:
        """How many durations all processes observed together."""
        found: list[Distribution] = [each.distribution(name, **labels) for each in self.counts.values()]
        return sum(each.count for each in found)


class _Shared:
    """A store that outlives the hosts that close it."""

    def __init__(self, store: MemoryStateStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def close(self) -> None: ...
