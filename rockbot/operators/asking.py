"""Asking an agent and following its task, over any bus.

One transient queue receives both the statuses and the answer, so they come in the order they were published. It exists
before the task is published; a task that is answered at once is not missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, final

from pydantic import ValidationError

from rockbot import topics
from rockbot.events.models import LlmDelta
from rockbot.events.tasks import AgentResponse, AgentStatus, AgentTask
from rockbot.operators.faults import InvalidRequest, TimedOut
from rockbot.operators.models import ReplyPiece
from rockbot.reply_text import ReplyText
from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Unroutable
from rockbot_messaging.letters import UNROUTED
from rockbot_messaging.ports import Door, MessageBus
from rockbot_messaging.subscriptions import WatchSubscription
from rockbot_messaging.verdicts import Ack, Verdict

__all__ = ["ask"]

_ACK: Final = Ack()
#: Seconds that closing the reply queue may take.
_STOP_TIMEOUT: Final = 2.0


async def ask(
    bus: MessageBus,
    *,
    clock: Clock,
    ids: IdSource,
    source: str,
    agent: str,
    text: str,
    conversation_id: str | None,
    timeout: float | None,
    stream: bool = False,
) -> AsyncIterator[AgentStatus | AgentResponse | ReplyPiece]:
    """As `rockbot.operator.Operator.ask`."""
    topic = topics.task(agent)
    try:
        task = AgentTask(input=text, conversation_id=conversation_id)
    except ValidationError as exc:
        raise InvalidRequest(f"this is no task: {exc.errors(include_url=False)[0]['msg']}") from None
    task_id = ids.new_id()
    inbox: asyncio.Queue[MessageEnvelope] = asyncio.Queue()

    async def receive(envelope: MessageEnvelope) -> Verdict:
        inbox.put_nowait(envelope)
        return _ACK

    patterns = [topics.status(agent)]
    if stream:
        # A task that names no conversation begins one of its own id.
        patterns.append(topics.llm_delta(conversation_id or task_id))
    watch = WatchSubscription(name=f"ask-{task_id}", patterns=tuple(patterns))
    said = _Said(task_id)
    consumption = await bus.subscriber.subscribe(watch, receive)
    try:
        envelope = MessageEnvelope(
            topic=topic,
            body=task.to_body(),
            message_id=task_id,
            type=AgentTask.type_name,
            source=source,
            timestamp_ms=clock.now_ms(),
            correlation_id=task_id,
            conversation_id=conversation_id,
            reply_to=consumption.address,
        )
        try:
            await bus.publisher.publish(envelope, door=Door.COMMANDS)
        except Unroutable:
            raise Unroutable(
                topic,
                f"no running host has an agent {agent!r}: nobody receives {topic!r}."
                f" The task was kept: rockbot dlq show {UNROUTED} {task_id}",
            ) from None
        last: AgentStatus | None = None
        loop = asyncio.get_running_loop()
        until = None if timeout is None else loop.time() + timeout
        while True:
            try:
                async with asyncio.timeout_at(until):
                    message = await inbox.get()
            except TimeoutError:
                raise TimedOut(_what_to_look_at(agent, task_id, timeout or 0, last)) from None
            if message.type == LlmDelta.type_name:
                if (piece := said.piece(message)) is not None:
                    yield piece
                continue
            event = _event_of(message, task_id)
            if event is None:
                continue
            yield event
            if isinstance(event, AgentResponse):
                return
            last = event
    finally:
        await consumption.stop(timeout=_STOP_TIMEOUT)


@final
class _Said:
    """What the models of one task have said."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._replies: dict[str, ReplyText] = {}

    def piece(self, message: MessageEnvelope) -> ReplyPiece | None:
        """What is new by this message, if anything."""
        try:
            delta = LlmDelta.model_validate_json(message.body)
        except ValidationError:
            return None
        if delta.task_id != self._task_id:
            return None
        reply = self._replies.setdefault(delta.call_id, ReplyText(delta.call_id))
        attempt, before = reply.attempt, reply.text
        if not reply.take(delta):
            return None
        reset = attempt != reply.attempt and bool(before)
        new = reply.text if attempt != reply.attempt else reply.text[len(before) :]
        return ReplyPiece(task_id=self._task_id, call_id=reply.call_id, text=new, reset=reset, done=reply.done)


def _event_of(message: MessageEnvelope, task_id: str) -> AgentStatus | AgentResponse | None:
    """The event, if it is one and about this task; other tasks' statuses come by the same topic."""
    event: AgentStatus | AgentResponse
    try:
        if message.type == AgentStatus.type_name:
            event = AgentStatus.model_validate_json(message.body)
        elif message.type == AgentResponse.type_name:
            event = AgentResponse.model_validate_json(message.body)
        else:
            return None
    except ValidationError:
        return None
    return event if task_id in (event.task_id, message.correlation_id) else None


def _what_to_look_at(agent: str, task_id: str, timeout: float, last: AgentStatus | None) -> str:
    head = f"no answer from agent {agent!r} within {timeout:g} s (task {task_id})"
    if last is None:
        return (
            f"{head}, and no sign that it was begun: it may wait in a queue, or lie among the dead letters."
            " Look at `rockbot dlq list`, and whether a host runs: `rockbot doctor`"
        )
    if last.kind == "stalled":
        return f"{head}: {last.text}. Mend it and send it on: `rockbot dlq list`; the task then goes on"
    if last.kind in ("approval", "question"):
        return f"{head}: it waits for a person: `rockbot approvals list`; the task then goes on"
    what = " ".join(part for part in (last.kind.replace("_", " "), last.tool) if part)
    return (
        f"{head}; its last step was {what!r} in conversation {last.conversation_id}."
        " It goes on without you; look at `rockbot dlq list` if it does not end"
    )
