"""The turn that a letter belongs to: whether it can still go on, and how its task is begun anew when it cannot.

A turn writes an index row with every change of its state, so whether it has ended is one read. What was asked is found in
the journal of the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, final

from pydantic import ValidationError

from rockbot import topics
from rockbot.events import AgentTask
from rockbot.letters.models import TurnInfo
from rockbot.letters.rows import is_step, task_of
from rockbot.machines.turn_records import RECORDS, TaskAccepted
from rockbot.machines.turn_state import Task
from rockbot.state.keys import conversation_key, task_key
from rockbot.state.ports import StateStore
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.identity import derive_id
from rockbot_messaging.letters import Letter
from rockbot_messaging.ports import Door, MessagePublisher

__all__ = ["Turns"]

_ENDED: Final = frozenset({"completed", "failed", "canceled", "expired"})
_RECORDS: Final = 500


@final
class Turns:
    """Reads turns from `store`; a store that knows nothing of a turn says nothing about it."""

    def __init__(self, store: StateStore, publisher: MessagePublisher, *, clock: Clock, source: str) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._source = source

    async def of(self, letter: Letter) -> TurnInfo | None:
        """The turn that a letter is a step, or the task, of; None when none is known."""
        task = task_of(letter)
        return await self._turn(letter.envelope.tenant, task) if task else None

    async def ended(self, letters: Sequence[Letter]) -> dict[tuple[str, str], TurnInfo]:
        """Of these letters, the turns that have ended and that a letter is a step of: by tenant and task."""
        steps = {(each.envelope.tenant, each.envelope.root_task_id) for each in letters if is_step(each)}
        found: dict[tuple[str, str], TurnInfo] = {}
        for tenant, task in steps:
            if task and (turn := await self._turn(tenant, task)) is not None and turn.ended:
                found[tenant, task] = turn
        return found

    async def restart(self, letter: Letter, turn: TurnInfo) -> str | None:
        """Publish the turn's task again as a new task, and return its id; None when the journal does not have it.

        The new id is derived from the task's: however many letters the turn left, and whoever is killed in between, the
        task is begun anew once.

        Raises:
            Whatever `MessagePublisher.publish` raises, `BodyTooLarge` and `Unroutable` among it.
        """
        tenant = letter.envelope.tenant
        task = await self._task(tenant, turn)
        if task is None:
            return None
        event = AgentTask(input=task.parts, timeout_seconds=task.allowed_ms / 1000 if task.allowed_ms > 0 else None)
        envelope = MessageEnvelope(
            topic=topics.task(task.agent.name),
            body=event.to_body(),
            message_id=derive_id(task.id, "restart", tenant=tenant),
            type=AgentTask.type_name,
            source=self._source,
            timestamp_ms=self._clock.now_ms(),
            tenant=tenant,
            correlation_id=task.correlation_id,
            reply_to=task.reply_to,
            causation_id=task.id,
            conversation_id=turn.conversation_id,
            traceparent=letter.envelope.traceparent,
            tracestate=letter.envelope.tracestate,
        )
        await self._publisher.publish(envelope, door=Door.COMMANDS)
        return envelope.message_id

    async def _turn(self, tenant: str, task: str) -> TurnInfo | None:
        try:
            entry = await self._store.get(task_key(tenant, task))
            row = json.loads(entry.value) if entry else None
            if row is None:
                return None
            state = str(row.get("status", ""))
            return TurnInfo(
                conversation_id=row["conversation_id"],
                task_id=task,
                agent=row.get("agent", ""),
                state=state,
                ended=state in _ENDED,
            )
        except (ValueError, LookupError, TypeError, AttributeError):  # ids from outside that no key can be made of
            return None

    async def _task(self, tenant: str, turn: TurnInfo) -> Task | None:
        stream = conversation_key(tenant, turn.conversation_id)
        wanted = json.dumps(turn.task_id).encode()
        after = 0
        while records := await self._store.read(stream, after=after, limit=_RECORDS):
            for record in records:
                if b'"task_accepted"' not in record.value or wanted not in record.value:
                    continue
                try:
                    found = RECORDS.validate_json(record.value)
                except ValidationError:
                    continue  # a newer release wrote it
                if isinstance(found, TaskAccepted) and found.task.id == turn.task_id:
                    return found.task
            after = records[-1].version
        return None
