"""What became of tasks: the rows that turns write with every change of their state, asked by tenant, agent, status and time.

A task has a row under its own id and one in the order of time, the latest first; both are written in the append that they tell
of, so history never says what did not happen. What was asked and answered is read from the journal.
"""

from __future__ import annotations

import json
from typing import Final, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rockbot.events.content import TextPart
from rockbot.events.tasks import ErrorInfo
from rockbot.machines.turn_records import RECORDS, TaskAccepted, TurnEnded
from rockbot.state.keys import (
    Key,
    conversation_key,
    key_parts,
    task_key,
    tasks_by_time,
    tasks_of_conversation,
    time_order,
)
from rockbot.state.ports import Entry, StateStore

__all__ = ["ENDED", "History", "TaskFilter", "TaskPage", "TaskRow", "TaskView", "read_row"]

#: The statuses of tasks that are over.
ENDED: Final = frozenset({"completed", "failed", "canceled", "expired"})
#: Rows looked at for one page, at most: a filter that fits nothing must not read everything in one call.
_LOOKED_AT: Final = 5000
_READ: Final = 200


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TaskRow(_Told):
    """One task: `at_ms` is since when it has its `status`, `cost` in the currency of the price table, None when unknown.

    Instants are epoch milliseconds. `root` is the task on whose behalf it was delegated, `answered_by` the one that answered for
    it. What a turn used is known when it has ended.
    """

    task_id: str = ""
    conversation_id: str
    agent: str = ""
    status: str = ""
    accepted_ms: int = 0
    at_ms: int = 0
    user: str = ""
    root: str = ""
    answered_by: str = ""
    model_calls: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.status in ENDED


class TaskView(TaskRow):
    """One task with what was asked and what was answered, as far as the journal has it."""

    input: str = ""
    output: str = ""
    error: ErrorInfo | None = None


class TaskFilter(BaseModel):
    """Which tasks; every field that is given must fit. `status` is a status, or ``open`` or ``ended``.

    `since_ms` (inclusive) and `before_ms` (exclusive) bound the instant of acceptance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str = Field(default="default", min_length=1)
    agent: str | None = None
    status: str | None = None
    conversation: str | None = Field(default=None, min_length=1)
    user: str | None = None
    since_ms: int | None = None
    before_ms: int | None = None

    def fits(self, row: TaskRow) -> bool:
        """Whether a row of the tenant is meant."""
        return (
            self.agent in (None, row.agent)
            and self.user in (None, row.user)
            and self.conversation in (None, row.conversation_id)
            and self._status_fits(row)
            and (self.since_ms is None or row.accepted_ms >= self.since_ms)
            and (self.before_ms is None or row.accepted_ms < self.before_ms)
        )

    def _status_fits(self, row: TaskRow) -> bool:
        match self.status:
            case None:
                return True
            case "open":
                return not row.ended
            case "ended":
                return row.ended
            case status:
                return row.status == status


class TaskPage(_Told):
    """Some tasks, the latest first; `next` continues, None at the end. A page may be short, even empty, and have a next."""

    tasks: tuple[TaskRow, ...]
    next: str | None = None


@final
class History:
    """Reads tasks from `store`. Every method may raise `StateUnavailable`."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    @property
    def store(self) -> StateStore:
        """What it reads from."""
        return self._store

    async def find(self, which: TaskFilter, *, limit: int = 50, after: str | None = None) -> TaskPage:
        """A page of the tasks that fit, the latest first; `after` is a former page's `next`.

        Raises:
            ValueError: the limit is below 1.
        """
        if which.conversation is not None:
            prefix = tasks_of_conversation(which.tenant, which.conversation)
        else:
            prefix = tasks_by_time(which.tenant)
        if after is None and which.before_ms is not None:
            # "0" is the first sign behind the slash: behind every task of that millisecond, and of later ones.
            after = f"{prefix}{time_order(which.before_ms)}0"
        found: list[TaskRow] = []
        looked_at = 0
        while looked_at < _LOOKED_AT:
            page = await self._store.list(prefix, after=after, limit=min(_READ, max(limit, 20)))
            for entry in page.entries:
                row = await self._row(which, entry)
                looked_at += 1
                after = entry.key
                if row is None or not which.fits(row):
                    if row is not None and which.since_ms is not None and row.accepted_ms < which.since_ms:
                        return TaskPage(tasks=tuple(found))
                    continue
                found.append(row)
                if len(found) == limit:
                    more = page.next is not None or entry.key != page.entries[-1].key
                    return TaskPage(tasks=tuple(found), next=after if more else None)
            if page.next is None:
                return TaskPage(tasks=tuple(found))
        return TaskPage(tasks=tuple(found), next=after)

    async def row(self, tenant: str, task_id: str) -> TaskRow | None:
        """The row of one task, None when there is none."""
        entry = await self._store.get(task_key(tenant, task_id))
        return None if entry is None else read_row(task_id, entry.value)

    async def task(self, tenant: str, task_id: str) -> TaskView | None:
        """One task with what was asked and answered; None when there is none."""
        row = await self.row(tenant, task_id)
        return None if row is None else TaskView(**(row.model_dump() | await self._story(tenant, row)))

    async def _row(self, which: TaskFilter, entry: Entry) -> TaskRow | None:
        task_id = key_parts(entry.key)[-1]
        if which.conversation is not None:
            return await self.row(which.tenant, task_id)
        return read_row(task_id, entry.value)

    async def _story(self, tenant: str, row: TaskRow) -> dict[str, object]:
        story: dict[str, object] = {}
        stream: Key = conversation_key(tenant, row.conversation_id)
        wanted = json.dumps(row.task_id).encode()
        after = 0
        while records := await self._store.read(stream, after=after, limit=_READ):
            for record in records:
                if wanted not in record.value:
                    continue
                try:
                    said = RECORDS.validate_json(record.value)
                except ValidationError:
                    continue  # a newer release wrote it
                match said:
                    case TaskAccepted(task=task) if task.id == row.task_id:
                        story["input"] = "\n".join(part.text for part in task.parts if isinstance(part, TextPart))
                    case TurnEnded() if said.task_id == row.task_id:
                        return story | {"output": said.output, "error": said.error}
            after = records[-1].version
        return story


def read_row(task_id: str, value: bytes) -> TaskRow | None:
    """A stored row; None when it cannot be read."""
    try:
        return TaskRow.model_validate_json(value).model_copy(update={"task_id": task_id})
    except ValidationError:
        return None
