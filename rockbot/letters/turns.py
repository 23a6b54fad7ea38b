"""The turn that a letter belongs to: whether it can still go on, and how its task is begun anew when it cannot.

A turn writes an index row with every change of its state, so whether it has ended is one read. A message names the root task;
where that has delegated tasks, whose step it is, is found in the journal of the conversation, as is what was asked.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from pydantic import ValidationError

from rockbot import topics
from rockbot.events import AgentTask
from rockbot.letters.models import TurnInfo
from rockbot.letters.rows import is_step, is_task, task_of
from rockbot.machines.turn_evolve import evolve
from rockbot.machines.turn_messages import token_parts
from rockbot.machines.turn_records import RECORDS, TaskAccepted
from rockbot.machines.turn_state import Conversation, Task
from rockbot.state.keys import conversation_key, key_parts, task_key, tasks_of_conversation, tasks_under
from rockbot.state.ports import Record, StateStore
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.identity import derive_id
from rockbot_messaging.letters import Letter
from rockbot_messaging.ports import Door, MessagePublisher

__all__ = ["Turns"]

_ENDED: Final = frozenset({"completed", "failed", "canceled", "expired"})
_RECORDS: Final = 500


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read for some letters, by tenant and task: turns, and whether a root task has delegated any."""

    turns: dict[tuple[str, str], TurnInfo | None] = field(default_factory=dict)
    delegating: dict[tuple[str, str], bool] = field(default_factory=dict)


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
        return await self._of(letter, _Read())

    async def ended(self, letters: Sequence[Letter]) -> dict[tuple[str, str], TurnInfo]:
        """Of these letters, those that are a step of a turn that has ended, with that turn: by tenant and id."""
        read = _Read()
        found: dict[tuple[str, str], TurnInfo] = {}
        for letter in letters:
            if is_step(letter) and (turn := await self._of(letter, read)) is not None and turn.ended:
                found[letter.envelope.tenant, letter.id] = turn
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
        event = AgentTask(
            input=task.parts,
            timeout_seconds=task.allowed_ms / 1000 if task.allowed_ms > 0 else None,
            mode=task.mode,
            user=task.user,
            lane=task.lane,
            output_schema=task.output_schema,
        )
        envelope = MessageEnvelope(
            topic=topics.user_message(task.place) if task.place else topics.task(task.agent.name),
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
            root_task_id=task.root_id or None,
            traceparent=letter.envelope.traceparent,
            tracestate=letter.envelope.tracestate,
        )
        await self._publisher.publish(envelope, door=Door.COMMANDS)
        return envelope.message_id

    async def _of(self, letter: Letter, read: _Read) -> TurnInfo | None:
        tenant, root = letter.envelope.tenant, task_of(letter)
        if not root:
            return None
        task: str | None = root
        if is_task(letter):
            task = letter.id
        else:
            if (tenant, root) not in read.delegating:
                read.delegating[tenant, root] = await self._has_delegated(tenant, root)
            if read.delegating[tenant, root]:
                task = await self._delegated(letter)
        if task is None:
            return None
        if (tenant, task) not in read.turns:
            read.turns[tenant, task] = await self._turn(tenant, task)
        return read.turns[tenant, task]

    async def _has_delegated(self, tenant: str, root: str) -> bool:
        try:
            return bool((await self._store.list(tasks_under(tenant, root), limit=1)).entries)
        except ValueError:  # an id from outside that no key can be made of
            return False

    async def _delegated(self, letter: Letter) -> str | None:
        """The task whose turn sent a message: the only one of its conversation, or the one that had this call under way."""
        tenant, address = letter.envelope.tenant, letter.envelope.return_address
        conversation, call = letter.envelope.conversation_id or "", letter.id
        try:
            if address is not None:
                conversation, call = token_parts(address.token)
            tasks = (await self._store.list(tasks_of_conversation(tenant, conversation), limit=2)).entries
        except ValueError:
            return None
        if len(tasks) == 1:
            return key_parts(tasks[0].key)[-1]
        wanted, state = json.dumps(call).encode(), Conversation()
        async for record in self._records(tenant, conversation):
            try:
                read = RECORDS.validate_json(record.value)
            except ValidationError:
                return None  # a newer release wrote it
            state = evolve(state, read)
            if wanted in record.value and not isinstance(read, TaskAccepted) and state.turn is not None:
                return state.turn.task.id
        return None

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
        wanted = json.dumps(turn.task_id).encode()
        async for record in self._records(tenant, turn.conversation_id):
            if b'"task_accepted"' not in record.value or wanted not in record.value:
                continue
            try:
                found = RECORDS.validate_json(record.value)
            except ValidationError:
                continue  # a newer release wrote it
            if isinstance(found, TaskAccepted) and found.task.id == turn.task_id:
                return found.task
        return None

    async def _records(self, tenant: str, conversation: str) -> AsyncIterator[Record]:
        stream, after = conversation_key(tenant, conversation), 0
        while records := await self._store.read(stream, after=after, limit=_RECORDS):
            for record in records:
                yield record
            after = records[-1].version
