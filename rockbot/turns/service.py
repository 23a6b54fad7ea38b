"""Turns, read from the journal of their conversations.

Nothing here decides anything: a story is the fold that the machine itself makes, a fork one append, resuming a replay of
dead letters.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final, final

from pydantic import ValidationError

from rockbot.errors import NewerRelease
from rockbot.events.content import text_of
from rockbot.history import TaskRow, read_row
from rockbot.letters.desk import LetterDesk
from rockbot.letters.models import LetterFilter, Progress, ReplayOptions
from rockbot.machines.transcript import copied_rows
from rockbot.machines.turn_evolve import evolve
from rockbot.machines.turn_records import RECORDS, ConversationForked, TurnEnded, TurnRecord
from rockbot.machines.turn_state import Conversation
from rockbot.operators.faults import ConversationNotFound, InvalidRequest, TaskNotFound
from rockbot.state.keys import conversation_key, task_key
from rockbot.state.ports import Append, StateStore, VersionConflict
from rockbot.turns.models import Fork, TurnStory
from rockbot.turns.telling import Told, tell
from rockbot_messaging.clock import IdSource
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["TurnService"]

#: Records read at once.
_PAGE: Final = 500
#: Characters of a conversation's id at most, as tasks may have.
_LONGEST_ID: Final = 200


@final
class TurnService:
    """Implements `rockbot.turns.desk.TurnDesk` over a store that is open.

    `letters` are the dead letters of the same hosts; without them nothing can be resumed.
    """

    def __init__(self, store: StateStore, *, ids: IdSource, letters: LetterDesk | None = None) -> None:
        self._store = store
        self._ids = ids
        self._letters = letters

    async def story(self, task_id: str, *, tenant: str = DEFAULT_TENANT) -> TurnStory:
        row = await self._row(task_id, tenant)
        told = tell(task_id, [each async for each in self._records(row.conversation_id, tenant)])
        task, turn, ended = told.task, told.turn, told.ended
        used: dict[str, Any] = {}
        if turn is not None:
            usage = turn.usage
            used = {
                "model_calls": turn.model_calls,
                "tool_calls": turn.tool_calls,
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cost": turn.cost,
            }
        deadline_ms = turn.deadline_ms if turn is not None else task.deadline_ms if task is not None else 0
        return TurnStory(
            **row.model_dump(exclude={*used}),
            **used,
            state=_state(told),
            input=text_of(task.parts) if task else "",
            output=ended.output if ended else turn.said if turn else "",
            error=ended.error if ended else None,
            deadline_ms=0 if ended else deadline_ms,
            waits_for=tuple(told.waits_for),
            steps=tuple(told.steps),
        )

    async def fork(
        self,
        conversation_id: str,
        *,
        at: int | None = None,
        name: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Fork:
        state, version, agent = Conversation(), 0, ""
        async for number, _, record in self._records(conversation_id, tenant):
            if at is not None and number > at:
                break
            state, version = evolve(state, record), number
            agent = state.turn.task.agent.name if state.turn else agent
        if not version:
            raise ConversationNotFound(f"there is no conversation {conversation_id!r}")
        if at is not None and at != version:
            raise ConversationNotFound(
                f"conversation {conversation_id!r} has no record {at}; its last one is {version}"
            )
        target = self._named(name)
        if state.turn is not None:  # as if it ended here: its open calls get results that say so
            state = evolve(state, TurnEnded(task_id=state.turn.task.id, status="canceled"))
        founded = ConversationForked(
            source=conversation_id,
            version=version,
            messages=state.messages,
            sealed=state.sealed,
            token_factor=state.token_factor,
            always=state.always,
            origins=state.origins,
        )
        rows = await copied_rows(self._store, tenant=tenant, source=conversation_id, target=target, head=state.sealed)
        step = Append(
            stream=conversation_key(tenant, target),
            expected_version=0,
            records=(RECORDS.dump_json(founded, exclude_none=True),),
            handled=self._ids.new_id(),
            index=tuple(rows),
        )
        try:
            await self._store.append(step)
        except VersionConflict:
            raise InvalidRequest(f"there is a conversation {target!r} already; choose another name") from None
        sealed = state.sealed.total_messages if state.sealed else 0
        return Fork(
            conversation_id=target,
            source=conversation_id,
            version=version,
            agent=agent,
            messages=sealed + len(state.messages),
        )

    async def resume(
        self, task_id: str, *, actor: str, dry_run: bool = False, tenant: str = DEFAULT_TENANT
    ) -> Progress:
        story = await self.story(task_id, tenant=tenant)
        letters = [hang for hang in story.waits_for if hang.kind == "dead_letter"]
        if not letters or self._letters is None:
            raise InvalidRequest(_not_stalled(story))
        which = LetterFilter(ids=tuple(hang.id for hang in letters))
        stream: Any = self._letters.replay(which, ReplayOptions(dry_run=dry_run), actor=actor)
        last = Progress(action="replay", dry_run=dry_run)
        async with aclosing(stream):
            async for progress in stream:
                last = progress
        return last

    # -- reading

    async def _row(self, task_id: str, tenant: str) -> TaskRow:
        try:
            entry = await self._store.get(task_key(tenant, task_id))
        except ValueError:
            entry = None
        row = read_row(task_id, entry.value) if entry is not None else None
        if row is None:
            whose = "" if tenant == DEFAULT_TENANT else f" of {tenant!r}"
            raise TaskNotFound(f"there is no task {task_id!r}{whose}")
        return row

    async def _records(self, conversation_id: str, tenant: str) -> AsyncIterator[tuple[int, int, TurnRecord]]:
        try:
            stream = conversation_key(tenant, conversation_id)
        except ValueError:
            return
        after = 0
        while page := await self._store.read(stream, after=after, limit=_PAGE):
            for record in page:
                try:
                    yield record.version, record.at_ms, RECORDS.validate_json(record.value)
                except ValidationError:
                    raise NewerRelease(
                        f"record {record.version} of conversation {conversation_id!r} was written by a newer release"
                    ) from None
            after = page[-1].version

    def _named(self, name: str | None) -> str:
        if name is None:
            return self._ids.new_id()
        if not name or len(name) > _LONGEST_ID or not name.isprintable():
            raise InvalidRequest(f"a conversation's name has 1 to {_LONGEST_ID} printable characters")
        return name


def _state(told: Told) -> str:
    if told.ended is not None:
        return told.ended.status
    turn = told.conversation.turn
    return turn.state if turn is not None and told.turn is not None else "received"


def _not_stalled(story: TurnStory) -> str:
    if story.ended:
        return (
            f"task {story.task_id} has ended ({story.status}); a dead letter of it can be sent on with --restart-turn"
        )
    others = "; ".join(hang.text for hang in story.waits_for) or "nothing that a person can send on"
    return f"task {story.task_id} waits for no dead letter: it waits for {others}"
