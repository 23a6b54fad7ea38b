"""Watching a model write: the text of a conversation's replies as it comes, over any bus.

A watcher binds first and reads the snapshots afterwards, so that nothing falls between the two. What it misses on the way (it
was away, it was slow) it finds in the next snapshot. So whoever watches a call to its end has the text of the reply, whenever
they began and however often they went away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, final

from pydantic import ValidationError

from rockbot import topics
from rockbot.events.models import LlmDelta
from rockbot.reply_text import ReplyText
from rockbot.state.replies import ReplySnapshots
from rockbot_messaging.envelope import DEFAULT_TENANT, MessageEnvelope
from rockbot_messaging.ports import MessageSubscriber
from rockbot_messaging.subscriptions import WatchSubscription
from rockbot_messaging.topics import escape_word
from rockbot_messaging.verdicts import Ack, Verdict

__all__ = ["ReplyUpdate", "ReplyWatcher", "watch_replies"]

_ACK: Final = Ack()
#: Seconds that closing the watcher's queue may take.
_STOP_TIMEOUT: Final = 2.0
#: Seconds between two looks for a snapshot while a delta is missing.
_GAP: Final = 0.25
#: Seconds between two looks while a reply that was begun says nothing, at most; at first it is one. A watch without replies
#: looks until it has come to this: by then all that was said before it began is in the store.
_LONGEST_SILENCE: Final = 30.0


@final
@dataclass(frozen=True, slots=True)
class ReplyUpdate:
    """One reply after something was added: its whole `text` so far, and the piece of it that is `new`.

    `reset` says that what was shown of it before does not count any more: another attempt began, or the model was asked to
    mend its reply. `done` says that the text is the reply's.
    """

    task_id: str
    call_id: str
    text: str
    new: str
    reset: bool = False
    done: bool = False


@final
class ReplyWatcher:
    """Iterates over what models say in one conversation, without end; made by `watch_replies`."""

    def __init__(self, conversation_id: str, tenant: str, snapshots: ReplySnapshots | None) -> None:
        self._conversation_id = conversation_id
        self._tenant = tenant
        self._snapshots = snapshots
        self._inbox: asyncio.Queue[LlmDelta] = asyncio.Queue()
        self._replies: dict[str, ReplyText] = {}
        self._shown: dict[str, tuple[int, str]] = {}
        self._looked = float("-inf")
        self._silence = 1.0
        self._settled = False

    async def receive(self, envelope: MessageEnvelope) -> Verdict:
        """Take a message of the watched topic; the handler of the subscription."""
        if envelope.type == LlmDelta.type_name and envelope.tenant == self._tenant:
            try:
                delta = LlmDelta.model_validate_json(envelope.body)
            except ValidationError:
                return _ACK
            # Two long ids may share a topic word.
            if delta.conversation_id == self._conversation_id:
                self._inbox.put_nowait(delta)
        return _ACK

    async def __aiter__(self) -> AsyncIterator[ReplyUpdate]:
        """Raises `StateUnavailable` when a snapshot is needed and the store cannot be read."""
        loop = asyncio.get_running_loop()
        for update in await self._restored():
            yield update
        while True:
            try:
                async with asyncio.timeout_at(self._look_at()):
                    delta = await self._inbox.get()
            except TimeoutError:
                updates = await self._restored()
                self._silence = 1.0 if updates else min(2 * self._silence, _LONGEST_SILENCE)
                self._settled |= self._silence == _LONGEST_SILENCE
            else:
                self._silence = 1.0
                reply = self._replies.setdefault(delta.call_id, ReplyText(delta.call_id))
                updates = self._updates(reply) if reply.take(delta) else []
                if reply.missing and loop.time() >= self._looked + _GAP:
                    updates += await self._restored()
            for update in updates:
                yield update

    def _look_at(self) -> float | None:
        """The loop's instant of the next look for a snapshot, None when there is nothing to miss."""
        if self._snapshots is None:
            return None
        if any(reply.missing for reply in self._replies.values()):
            return self._looked + _GAP
        # What was said just before the watch began may not have been stored yet, and the model may pause after it.
        if self._settled and all(reply.done for reply in self._replies.values()):
            return None
        return asyncio.get_running_loop().time() + self._silence

    async def _restored(self) -> list[ReplyUpdate]:
        if self._snapshots is None:
            return []
        updates: list[ReplyUpdate] = []
        self._looked = asyncio.get_running_loop().time()
        for snapshot in await self._snapshots.of(self._tenant, self._conversation_id):
            reply = self._replies.setdefault(snapshot.call_id, ReplyText(snapshot.call_id))
            if reply.restore(snapshot):
                updates += self._updates(reply)
        return updates

    def _updates(self, reply: ReplyText) -> list[ReplyUpdate]:
        attempt, text = self._shown.get(reply.call_id, (reply.attempt, ""))
        self._shown[reply.call_id] = (reply.attempt, reply.text)
        reset = attempt != reply.attempt or not reply.text.startswith(text)
        new = reply.text if reset else reply.text[len(text) :]
        return [ReplyUpdate(reply.task_id, reply.call_id, reply.text, new, reset and bool(text), reply.done)]


@asynccontextmanager
async def watch_replies(
    subscriber: MessageSubscriber,
    conversation_id: str,
    *,
    tenant: str = DEFAULT_TENANT,
    snapshots: ReplySnapshots | None = None,
) -> AsyncIterator[ReplyWatcher]:
    """Watch a conversation for the length of a block; iterate over the watcher in it.

    `snapshots` are those of the hosts' state store. Without them only what is said from now on is seen, and what is lost on the
    way leaves a reply unfinished.

    Raises:
        BrokerUnreachable, Closed: as for subscribing.
    """
    watcher = ReplyWatcher(conversation_id, tenant, snapshots)
    watch = WatchSubscription(
        name=f"replies-{escape_word(conversation_id)[:40]}", patterns=(topics.llm_delta(conversation_id),)
    )
    consumption = await subscriber.subscribe(watch, watcher.receive)
    try:
        yield watcher
    finally:
        await consumption.stop(timeout=_STOP_TIMEOUT)
