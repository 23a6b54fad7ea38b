"""An agent without a model: a work subscription whose answers depend on the words it is asked."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import ValidationError

from rockbot.events.tasks import AgentResponse, AgentStatus, AgentTask, ErrorInfo
from rockbot.gateway.app import create_app
from rockbot.gateway.server import serve
from rockbot.operators.bus import BusOperator
from rockbot.operators.models import Pipeline
from rockbot_messaging import Ack, DeadLetter, Door, MessageBus, MessageEnvelope, RetryPolicy, Verdict, WorkSubscription
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.memory import MemoryBus

AGENT = WorkSubscription(
    name="agent.assistant", patterns=("agent.task.assistant",), retry=RetryPolicy(max_attempts=1, delays=(1,))
)


class FakeAgent:
    """Answers in capitals; ``silent`` never, ``stall`` with a stalled step, ``fail`` with a failure.

    What follows ``stop:`` is how its model ended.
    """

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.seen: list[MessageEnvelope] = []
        self.asked = asyncio.Event()

    async def __call__(self, envelope: MessageEnvelope) -> Verdict:
        self.seen.append(envelope)
        self.asked.set()
        try:
            task = AgentTask.model_validate_json(envelope.body)
        except ValidationError:
            return DeadLetter(
                reason="the body is no rockbot.agent.task", error_type="InvalidEvent", traceback="Trace: here"
            )
        text = str(task.input)
        if "silent" in text:
            return Ack()
        await self._tell(envelope, "accepted", task_id="somebody-elses", correlation="somebody-elses")
        await self._tell(envelope, "accepted")
        if "stall" in text:
            await self._tell(envelope, "stalled", text="a step failed and waits in tools.dlq: no disk")
            return Ack()
        await self._tell(envelope, "tool_call", text='{"code": "1"}', tool="run_python")
        failed = "fail" in text
        response = AgentResponse(
            task_id=envelope.message_id,
            conversation_id=envelope.conversation_id or envelope.message_id,
            agent="assistant",
            status="failed" if failed else "completed",
            output="" if failed else text.upper(),
            error=ErrorInfo(code="limit", message="too much") if failed else None,
            stop_reason=text.partition("stop:")[2] or "end_turn",  # type: ignore[arg-type]
        )
        answer = self._envelope(envelope, "end", response, "agent.response.assistant")
        if envelope.reply_to:
            await self.bus.publisher.send(answer, address=envelope.reply_to)
        return Ack()

    async def _tell(
        self,
        envelope: MessageEnvelope,
        kind: str,
        *,
        text: str = "",
        tool: str = "",
        task_id: str = "",
        correlation: str = "",
    ) -> None:
        status = AgentStatus.model_validate(
            {
                "task_id": task_id or envelope.message_id,
                "conversation_id": "c",
                "agent": "assistant",
                "kind": kind,
                "text": text,
                "tool": tool,
            }
        )
        message = self._envelope(envelope, f"{kind}{task_id}", status, "agent.status.assistant")
        if correlation:
            message = message.replace(correlation_id=correlation)
        await self.bus.publisher.publish(message, door=Door.LOSSY)

    def _envelope(
        self, cause: MessageEnvelope, name: str, event: AgentStatus | AgentResponse, topic: str
    ) -> MessageEnvelope:
        return cause.caused(
            name,
            topic=topic,
            type=event.type_name,
            body=event.to_body(),
            source="fake",
            timestamp_ms=cause.timestamp_ms,
        )


PIPELINE = Pipeline.describe(
    chain=[("rockbot.agent.task", ["logging", "agent"])],
    failures=[("Exception", "retry")],
    subscriptions=[AGENT],
)


class FakeHost:
    """A bus with the agent on it, an operator over the bus, and a short folder for a socket."""

    def __init__(self, bus: MemoryBus, agent: FakeAgent, operator: BusOperator, folder: Path) -> None:
        self.bus = bus
        self.agent = agent
        self.operator = operator
        self.folder = folder
        self.socket = folder / "host" / "s.sock"

    def watchers(self) -> list[str]:
        """Transient queues that exist now."""
        return [name for name in self.bus.broker.queues if ".watch." in name]


@asynccontextmanager
async def fake_host(*, max_body_bytes: int = 16 << 20) -> AsyncIterator[FakeHost]:
    """Everything but the gateway."""
    folder = Path(tempfile.mkdtemp(prefix="rb"))
    bus = MemoryBus(max_body_bytes=max_body_bytes)
    await bus.open()
    agent = FakeAgent(bus)
    await bus.subscriber.subscribe(AGENT, agent)
    try:
        yield FakeHost(bus, agent, BusOperator(bus, clock=SystemClock(), ids=RandomIds(), pipeline=PIPELINE), folder)
    finally:
        await bus.close()
        shutil.rmtree(folder)


@asynccontextmanager
async def served_host(*, max_body_bytes: int = 16 << 20) -> AsyncIterator[FakeHost]:
    """With the gateway on `host.socket`."""
    async with (
        fake_host(max_body_bytes=max_body_bytes) as host,
        serve(create_app(host.operator, max_body_bytes=max_body_bytes), host.socket),
    ):
        yield host
