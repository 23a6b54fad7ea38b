"""An agent without a model: a work subscription whose answers depend on the words it is asked."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rockbot.events.models import LlmDelta
from rockbot.events.registry import EventRegistry
from rockbot.events.tasks import AgentResponse, AgentStatus, AgentTask, ErrorInfo
from rockbot.gateway.actions import Actions
from rockbot.gateway.app import create_app
from rockbot.gateway.server import serve
from rockbot.history import History
from rockbot.letters.service import LetterService
from rockbot.operators.bus import BusOperator
from rockbot.operators.models import Pipeline
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateStore
from rockbot.topics import llm_delta
from rockbot_messaging import (
    Ack,
    DeadLetter,
    Door,
    Failure,
    MessageBus,
    MessageEnvelope,
    RetryPolicy,
    Verdict,
    WorkSubscription,
)
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.memory import MemoryBus

AGENT = WorkSubscription(
    name="agent.assistant", patterns=("agent.task.assistant",), retry=RetryPolicy(max_attempts=1, delays=(1,))
)


class FakeAgent:
    """Answers in capitals; ``silent`` never, ``stall`` with a stalled step, ``refund`` when a person agrees, ``fail`` with a
    failure.

    What follows ``stop:`` is how its model ended; one that is to ``speak`` says its answer in pieces, at the second attempt.
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
        if "refund" in text:
            await self._tell(envelope, "approval", text="the tool itself asks for approval", tool="refund")
            return Ack()
        await self._tell(envelope, "tool_call", text='{"code": "1"}', tool="run_python")
        if "speak" in text:
            await self._say(envelope, 1, ["SO", "METHING ELSE"])
            await self._say(envelope, 2, [text.upper()[:3], text.upper()[3:]])
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

    async def _say(self, envelope: MessageEnvelope, attempt: int, pieces: list[str]) -> None:
        conversation_id = envelope.conversation_id or envelope.message_id
        for sequence, text in enumerate(pieces):
            delta = LlmDelta(
                task_id=envelope.message_id,
                conversation_id=conversation_id,
                call_id="call-1",
                attempt=attempt,
                sequence=sequence,
                offset=len("".join(pieces[:sequence])),
                text=text,
                reset=sequence == 0,
                done=attempt == 2 and sequence == len(pieces) - 1,
            )
            name = f"delta-{attempt}-{sequence}"
            message = self._envelope(envelope, name, delta, llm_delta(conversation_id))
            await self.bus.publisher.publish(message, door=Door.LOSSY)

    def _envelope(
        self, cause: MessageEnvelope, name: str, event: AgentStatus | AgentResponse | LlmDelta, topic: str
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


REGISTRY = EventRegistry((AgentTask, AgentStatus, AgentResponse))


def desk_over(bus: MessageBus, store: StateStore, *, namespace: str = "rockbot") -> LetterService:
    """The dead-letter service as a host has it."""
    return LetterService(
        letters=bus.dead_letters,
        publisher=bus.publisher,
        store=store,
        clock=SystemClock(),
        ids=RandomIds(),
        owner="test",
        namespace=namespace,
        source="test",
        registry=REGISTRY,
    )


async def bury(
    bus: MessageBus,
    letter_id: str,
    *,
    queue: str = "agent.assistant",
    body: bytes = b"not json",
    type: str = "rockbot.agent.task",
    topic: str = "agent.task.assistant",
    reason: str = "no disk",
    error: str = "OSError",
    handler: str = "agent",
    at_ms: int | None = None,
    **envelope: Any,
) -> str:
    """Put a letter into a dead-letter queue; returns its id."""
    now_ms = SystemClock().now_ms()
    message = MessageEnvelope(
        topic=topic, body=body, message_id=letter_id, type=type, source="shop", timestamp_ms=now_ms, **envelope
    )
    failure = Failure(
        reason=reason,
        queue=f"rockbot.{queue}",
        topic=topic,
        at_ms=now_ms if at_ms is None else at_ms,
        attempt=3,
        error_type=error,
        traceback="Trace: here",
        history=("attempt 1: no disk",),
        handler=handler,
    )
    await bus.dead_letters.bury(queue, message, failure)
    return letter_id


class FakeHost:
    """A bus with the agent on it, an operator over the bus, and a short folder for a socket."""

    def __init__(
        self, bus: MemoryBus, agent: FakeAgent, operator: BusOperator, folder: Path, store: MemoryStateStore
    ) -> None:
        self.bus = bus
        self.agent = agent
        self.operator = operator
        self.folder = folder
        self.store = store
        self.actions = Actions()
        self.socket = folder / "host" / "s.sock"

    async def lying(self, queue: str = "agent.assistant") -> list[str]:
        """Ids of the letters that the broker has, the oldest first."""
        return [letter.id for letter in await self.bus.dead_letters.letters(queue, limit=10_000)]

    async def until_dead(self, letter_id: str, queue: str = "agent.assistant") -> None:
        """Wait until a message has become a letter."""
        async with asyncio.timeout(60):
            while letter_id not in await self.lying(queue):
                await asyncio.sleep(0)

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
    store = MemoryStateStore(SystemClock())
    await store.open()
    operator = BusOperator(
        bus,
        clock=SystemClock(),
        ids=RandomIds(),
        dead_letters=desk_over(bus, store),
        history=History(store),
        pipeline=PIPELINE,
    )
    try:
        yield FakeHost(bus, agent, operator, folder, store)
    finally:
        await bus.close()
        await store.close()
        shutil.rmtree(folder)


@asynccontextmanager
async def served_host(*, max_body_bytes: int = 16 << 20) -> AsyncIterator[FakeHost]:
    """With the gateway on `host.socket`."""
    async with (
        fake_host(max_body_bytes=max_body_bytes) as host,
        serve(create_app(host.operator, max_body_bytes=max_body_bytes, actions=host.actions), host.socket),
    ):
        yield host
