"""What people do with turns under way: see what they are asked, decide, and cancel."""

from __future__ import annotations

import json
from typing import Final, final

from pydantic import BaseModel, ConfigDict

from rockbot import topics
from rockbot.events import ApprovalDecision, ApprovalRequest, CancelTask, ControlCancel, Event
from rockbot.machines.turn_messages import return_token
from rockbot.operators.faults import ApprovalNotFound, InvalidRequest, TaskNotFound
from rockbot.operators.models import PublishedMessage
from rockbot.state.keys import approval_key, approvals, task_key
from rockbot.state.ports import StateStore
from rockbot_messaging.canceling import CANCEL_TOPIC
from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import Unroutable
from rockbot_messaging.identity import derive_id
from rockbot_messaging.ports import Door, MessagePublisher

__all__ = ["ApprovalPage", "PeopleDesk"]

_ENDED: Final = frozenset({"completed", "failed", "canceled", "expired"})


class ApprovalPage(BaseModel):
    """Open approvals and questions; `next` continues the listing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    approvals: tuple[ApprovalRequest, ...]
    next: str | None = None


@final
class PeopleDesk:
    """Reads the rows of open approvals in `store`, and publishes what was decided. Every method raises `StateUnavailable`."""

    def __init__(
        self, store: StateStore, publisher: MessagePublisher, *, clock: Clock, ids: IdSource, source: str
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._ids = ids
        self._source = source

    async def open(self, *, tenant: str, limit: int, after: str | None) -> ApprovalPage:
        """What people are asked at present, in the order of ids."""
        page = await self._store.list(approvals(tenant), after=after, limit=limit)
        found = tuple(ApprovalRequest.model_validate_json(entry.value) for entry in page.entries)
        return ApprovalPage(approvals=found, next=page.next)

    async def one(self, approval_id: str, *, tenant: str) -> ApprovalRequest:
        """Raises ApprovalNotFound: it is decided, or never was."""
        entry = await self._store.get(approval_key(tenant, approval_id))
        if entry is None:
            raise ApprovalNotFound(f"nothing is asked under {approval_id!r} (any more): rockbot approvals list")
        return ApprovalRequest.model_validate_json(entry.value)

    async def decide(self, decision: ApprovalDecision, *, tenant: str) -> PublishedMessage:
        """Send a decision to the turn that waits for it; it names the arguments that are asked about.

        Raises:
            ApprovalNotFound, InvalidRequest: nothing was sent. Unroutable: no host runs the agent.
        """
        asked = await self.one(decision.approval_id, tenant=tenant)
        if asked.kind == "question" and decision.decision == "approve":
            raise InvalidRequest("this is a question: rockbot approvals answer")
        if asked.kind == "approval" and decision.decision == "answer":
            raise InvalidRequest("this is a call that needs approval: rockbot approvals approve, or deny")
        if decision.argument_hash and decision.argument_hash != asked.argument_hash:
            raise InvalidRequest("the decision was made for other arguments than those that are asked about")
        complete = decision.model_copy(update={"argument_hash": asked.argument_hash})
        envelope = self._made(complete, topics.approval_decision(asked.agent), tenant, self._ids.new_id())
        envelope = envelope.replace(conversation_id=asked.conversation_id)
        await self._publisher.publish(envelope, door=Door.COMMANDS)
        return PublishedMessage.of(envelope)

    async def cancel(self, task_id: str, *, tenant: str, reason: str, by: str) -> PublishedMessage:
        """Cancel a task and what was delegated on its behalf.

        A task that waits in a queue is refused when it is picked up. One that the state store knows gets its command also
        when no host hears the broadcast.

        Raises:
            TaskNotFound: nobody is there who could hear it, and the task is not known.
        """
        envelope = self._made(
            ControlCancel(task_id=task_id, reason=reason, by=by), CANCEL_TOPIC, tenant, self._ids.new_id()
        )
        known = await self._end(task_id, tenant=tenant, reason=reason, by=by, cause=envelope.message_id)
        try:
            await self._publisher.publish(envelope, door=Door.COMMANDS)
        except Unroutable:
            if not known:
                raise TaskNotFound("no host is running, and the state store knows no such task") from None
        return PublishedMessage.of(envelope)

    async def _end(self, task_id: str, *, tenant: str, reason: str, by: str, cause: str) -> bool:
        entry = await self._store.get(task_key(tenant, task_id))
        row = json.loads(entry.value) if entry else {}
        if not row or row["status"] in _ENDED:
            return False
        cancel = CancelTask(task_id=task_id, conversation_id=row["conversation_id"], reason=reason, by=by)
        step = topics.step(row["agent"])
        # The id that hosts give to it when they hear the broadcast, so that theirs and this one are one.
        command_id = derive_id(cause, f"cancel:{task_id}", tenant=tenant)
        envelope = self._made(cancel, step, tenant, command_id)
        address = ReturnAddress(step, return_token(row["conversation_id"], task_id))
        await self._publisher.publish(envelope.replace(return_address=address), door=Door.COMMANDS)
        return True

    def _made(self, event: Event, topic: str, tenant: str, message_id: str) -> MessageEnvelope:
        return MessageEnvelope(
            topic=topic,
            body=event.to_body(),
            message_id=message_id,
            type=event.type_name,
            source=self._source,
            timestamp_ms=self._clock.now_ms(),
            tenant=tenant,
        )
