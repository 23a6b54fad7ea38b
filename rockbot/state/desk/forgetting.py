"""Forgetting a conversation, or a tenant, completely: whatever a store holds of it goes, and what was removed is said.

What names a conversation in its key goes by prefix. What does not (ledger entries, marks of handled messages, rows of other
handlers, artifacts) is found by the ids that its journal names and by what it was begun for. The journal goes last but one, and
the list of tasks last, so that a process that is killed half-way finds the rest when it is run again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Final

from rockbot.history import History, TaskFilter, read_row
from rockbot.letters.index import SYSTEM
from rockbot.state.data import Entry, Write
from rockbot.state.desk.forgotten import ForgetRefused, Forgotten, entries_under, letters_left
from rockbot.state.items import HandledItem, RowItem, TimerItem, ValueItem, cursor
from rockbot.state.keys import (
    AGENT_USES,
    Key,
    Prefix,
    approval_key,
    artifact_key,
    conversation_key,
    key_parts,
    prefix,
    reply_prefix,
    segment_prefix,
    task_key,
    task_time_key,
    tasks_of_conversation,
    tasks_under,
    tenant_prefix,
    timer_prefix,
)
from rockbot.state.ledger import begun_under
from rockbot.state.ports import StateStore
from rockbot_messaging.errors import Undecodable
from rockbot_messaging.packing import unpack

__all__ = ["forget_conversation", "forget_tenant"]

#: The fields of a record that name messages. Texts may quote the ids of others, and say nothing of what belongs to whom.
_NAMES: Final = ("id", "new_id", "model_call", "message_id", "task_id")
_DIGEST: Final = re.compile(rb"sha256:([0-9a-f]{64})")
_PAGE: Final = 200
_INBOXES: Final = ("inbox", "inbox-message", "inbox-id")


async def forget_conversation(
    store: StateStore, tenant: str, conversation_id: str, *, force: bool = False
) -> Forgotten:
    """Remove a conversation. What it used of limits stays counted: forgetting gives no budget back.

    Raises:
        ForgetRefused: a task of it has not ended, and it was not forced. StateUnavailable: run it again.
    """
    work = _Conversation(store, tenant, conversation_id)
    await work.look(force=force)
    await work.forget()
    return Forgotten(
        tenant=tenant,
        conversation=conversation_id,
        removed=_told(work.removed),
        letters=await letters_left(store, tenant, conversation_id),
    )


async def forget_tenant(store: StateStore, tenant: str, *, force: bool = False) -> Forgotten:
    """Remove everything that belongs to a tenant, its amounts and limits too.

    Raises:
        ForgetRefused: a task of it has not ended, and it was not forced, or it is no tenant. StateUnavailable: run it again.
    """
    if tenant in ("host", SYSTEM):
        raise ForgetRefused(f"{tenant!r} is no tenant: what lies there belongs to the hosts")
    if not force:
        page = await History(store).find(TaskFilter(tenant=tenant, status="open"), limit=1)
        while not page.tasks and page.next is not None:
            page = await History(store).find(TaskFilter(tenant=tenant, status="open"), limit=1, after=page.next)
        _refuse_if_open([row.task_id for row in page.tasks])
    removed: Counter[str] = Counter(await store.erase(tenant_prefix(tenant)))
    # What belongs to hosts and has a tenant in its key: uses of agents, and lines of ordered subscriptions.
    at = {AGENT_USES: 4} | {prefix("host", space): 3 for space in _INBOXES}
    for under, part in at.items():
        async for entries in entries_under(store, under):
            gone = [entry.key for entry in entries if _part(entry.key, part) == tenant]
            removed["value"] += await _delete(store, gone)
    rows = [row.row.id async for row in _rows(store) if _tenant_of(row.row.message) == tenant]
    removed["row"] += await store.drop_rows(rows)
    return Forgotten(tenant=tenant, removed=_told(removed), letters=await letters_left(store, tenant, None))


class _Conversation:
    """One conversation that is being forgotten: its tasks, the ids and artifacts it names, what was removed so far."""

    def __init__(self, store: StateStore, tenant: str, conversation_id: str) -> None:
        self._store = store
        self._tenant = tenant
        self._id = conversation_id
        self._stream = conversation_key(tenant, conversation_id)
        self._tasks: dict[str, int] = {}
        self._ids: set[str] = set()
        self._digests: set[str] = set()
        self.removed: Counter[str] = Counter()

    async def look(self, *, force: bool) -> None:
        """Find its tasks, and the ids and artifacts that it names."""
        open_tasks = []
        async for entries in entries_under(self._store, tasks_of_conversation(self._tenant, self._id)):
            for entry in entries:
                task = key_parts(entry.key)[-1]
                row = await History(self._store).row(self._tenant, task)
                self._tasks[task] = row.accepted_ms if row is not None else 0
                if row is not None and not row.ended:
                    open_tasks.append(task)
        if not force:
            _refuse_if_open(open_tasks)
        after = 0
        while records := await self._store.read(self._stream, after=after, limit=_PAGE):
            self._note(record.value for record in records)
            for record in records:
                self._ids |= _ids_of(record.value)
            after = records[-1].version
        async for message in self._handled():
            self._ids.add(message)
        async for entries in entries_under(self._store, segment_prefix(self._tenant, self._id)):
            self._note(entry.value for entry in entries)
        await self._note_older_tasks()
        self._ids |= self._tasks.keys()

    async def forget(self) -> None:
        tenant, store = self._tenant, self._store
        await self._erase(timer_prefix(tenant, self._id))
        await self._forget_calls()
        await self._forget_marks()
        await self._forget_rows()
        approvals = [approval_key(tenant, each) for each in self._ids]
        self.removed["approval"] += await _delete(store, [at for at in approvals if await store.get(at) is not None])
        await self._forget_uses()
        await self._erase(segment_prefix(tenant, self._id))
        await self._erase(reply_prefix(tenant, self._id))
        await self._forget_artifacts()
        await self._erase(Prefix(f"{self._stream}/"))
        for task, accepted_ms in self._tasks.items():
            await self._erase(tasks_under(tenant, task))
            rows = [task_key(tenant, task), task_time_key(tenant, accepted_ms, task)]
            self.removed["task row"] += await _delete(store, rows)
        await self._erase(tasks_of_conversation(tenant, self._id))

    async def _erase(self, under: Prefix) -> None:
        self.removed.update(await self._store.erase(under))

    def _note(self, texts: Iterable[bytes]) -> None:
        for text in texts:
            self._digests.update(found.decode() for found in _DIGEST.findall(text))

    async def _handled(self) -> AsyncIterator[str]:
        after: str | None = cursor(self._stream, "")
        while after is not None:
            page = await self._store.dump("handled", after=after, limit=_PAGE)
            for item in page.items:
                if not isinstance(item, HandledItem) or item.stream != self._stream:
                    return
                yield item.message
            after = page.next

    async def _note_older_tasks(self) -> None:
        """Tasks of older releases are in no list of their conversation; their rows say where they belong."""
        for each in self._ids - self._tasks.keys():
            entry = await self._store.get(task_key(self._tenant, each))
            row = None if entry is None else read_row(each, entry.value)
            if row is not None and row.conversation_id == self._id:
                self._tasks[each] = row.accepted_ms

    async def _forget_calls(self) -> None:
        """Ledger entries: those of its calls, and those of calls that were begun for its tasks and calls."""
        async for entries in entries_under(self._store, prefix(self._tenant, "call")):
            mine = [entry for entry in entries if self._is_mine(entry)]
            self._note(entry.value for entry in mine)
            self.removed["ledger entry"] += await _delete(self._store, [entry.key for entry in mine])

    def _is_mine(self, entry: Entry) -> bool:
        return key_parts(entry.key)[-1] in self._ids or bool(begun_under(entry.value) & self._ids)

    async def _forget_marks(self) -> None:
        for space in ("handled", "started"):
            async for entries in entries_under(self._store, prefix(self._tenant, space)):
                for entry in entries:
                    if key_parts(entry.key)[-1] in self._ids:
                        await self._erase(Prefix(f"{entry.key}/"))

    async def _forget_rows(self) -> None:
        """Rows and timers of handlers that are no machine: they carry the conversation in their message."""
        rows = [row.row.id async for row in _rows(self._store) if self._carries(row.row.message)]
        self.removed["row"] += await self._store.drop_rows(rows)

    def _carries(self, message: bytes) -> bool:
        try:
            envelope = unpack(message)
        except Undecodable:
            return False
        mine = envelope.tenant == self._tenant and envelope.conversation_id == self._id
        if mine:
            self._note([message])
        return mine

    async def _forget_uses(self) -> None:
        async for entries in entries_under(self._store, AGENT_USES):
            parts = [(entry.key, key_parts(entry.key)) for entry in entries]
            gone = [at for at, names in parts if names[-2:] in {(self._tenant, task) for task in self._tasks}]
            self.removed["value"] += await _delete(self._store, gone)

    async def _forget_artifacts(self) -> None:
        """Artifacts that this conversation points at and nothing else in the store does."""
        mine = {each for each in self._digests if await self._store.get(artifact_key(self._tenant, each)) is not None}
        if not mine:
            return
        async for text in self._elsewhere():
            mine -= {found.decode() for found in _DIGEST.findall(text)}
            if not mine:
                return
        self.removed["artifact"] += await _delete(self._store, [artifact_key(self._tenant, each) for each in mine])

    async def _elsewhere(self) -> AsyncIterator[bytes]:
        """Every text of the tenant that may point at artifacts, but those of this conversation, which go."""
        mine = tenant_prefix(self._tenant)
        after: str | None = None
        while True:
            page = await self._store.dump("value", after=after, limit=_PAGE)
            for item in page.items:
                if isinstance(item, ValueItem) and not item.key.startswith(f"{mine}artifact/"):
                    yield item.value
            if (after := page.next) is None:
                break
        for kind in ("record", "row", "timer"):
            while True:
                page = await self._store.dump(kind, after=after, limit=_PAGE)
                for item in page.items:
                    stream = getattr(item, "stream", None)
                    if stream != self._stream:
                        yield item.timer.payload if isinstance(item, TimerItem) else _text(item)
                if (after := page.next) is None:
                    break


def _ids_of(record: bytes) -> set[str]:
    """The ids of messages that a record of a journal names: its own fields, those of its task and of its calls."""
    try:
        found = json.loads(record)
    except ValueError:
        return set()
    if not isinstance(found, dict):
        return set()
    calls = found.get("calls")
    parts = [found, found.get("task"), *(calls if isinstance(calls, list) else ())]
    ids = [part.get(name) for part in parts if isinstance(part, dict) for name in _NAMES]
    return {each for each in ids if isinstance(each, str) and each}


def _text(item: object) -> bytes:
    if isinstance(item, RowItem):
        return item.row.message
    record = getattr(item, "record", None)
    value: bytes = record.value if record is not None else b""
    return value


def _refuse_if_open(tasks: list[str]) -> None:
    if tasks:
        raise ForgetRefused(
            f"a task has not ended ({', '.join(tasks[:3])}), and would write anew what is forgotten: wait for its end or cancel"
            " it; --force forgets all the same"
        )


async def _rows(store: StateStore) -> AsyncIterator[RowItem]:
    after: str | None = None
    while True:
        page = await store.dump("row", after=after, limit=_PAGE)
        for item in page.items:
            if isinstance(item, RowItem):
                yield item
        if (after := page.next) is None:
            return


async def _delete(store: StateStore, keys: list[Key]) -> int:
    if keys:
        await store.write([Write(key=each, value=None) for each in dict.fromkeys(keys)])
    return len(keys)


def _part(of: Key, number: int) -> str:
    parts = key_parts(of)
    return parts[number] if number < len(parts) else ""


def _tenant_of(message: bytes) -> str:
    try:
        return unpack(message).tenant
    except Undecodable:
        return ""


def _told(removed: Counter[str]) -> dict[str, int]:
    return {what: count for what, count in removed.items() if count}
