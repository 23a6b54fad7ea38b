"""Model calls whose text can be watched while it comes.

The worker asks for a streamed reply, and what it answers is the same as ever: watchers get deltas by the lossy door, and
snapshots from the state store. Every attempt has a number of its own, greater than those before it on whichever replica they
were made: the store's clock when it began.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, final

from rockbot import topics
from rockbot.context import Context
from rockbot.events import LlmDelta, LlmRequest, LlmResponse
from rockbot.llm import LlmClient, LlmUnknownOutcome, TextDelta
from rockbot.plugins import Signal
from rockbot.settings_streaming import StreamingSettings
from rockbot.state.ports import StateError, StateStore
from rockbot.state.replies import ReplySnapshot, ReplySnapshots
from rockbot_handlers.llm.live_text import LiveText

__all__ = ["StreamedCall", "Streaming", "WholeCall"]

logger = logging.getLogger(__name__)


@final
class Streaming:
    """How this process makes model calls: streamed and told, or whole."""

    def __init__(self, settings: StreamingSettings, *, state: StateStore, signal: Signal) -> None:
        self._settings = settings
        self._state = state
        self._snapshots = ReplySnapshots(state)
        self._signal = signal
        self._keeping: set[asyncio.Task[None]] = set()

    def of(self, context: Context) -> StreamedCall | WholeCall:
        """The way to make the call that this message asks for."""
        conversation_id = context.envelope.conversation_id
        if not self._settings.enabled or not conversation_id:
            return WholeCall(context)
        return StreamedCall(
            context,
            conversation_id,
            settings=self._settings,
            state=self._state,
            snapshots=self._snapshots,
            signal=self._signal,
            later=self._later,
        )

    async def close(self) -> None:
        """Wait for what is still being stored (seconds at most); idempotent."""
        if self._keeping:
            await asyncio.wait(self._keeping)

    def _later(self, keeping: Coroutine[Any, Any, None]) -> None:
        """Store something that the answer does not have to wait for."""
        task = asyncio.create_task(keeping, name="keep a reply's text")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)


@final
@dataclass(frozen=True, slots=True)
class WholeCall:
    """A call that nobody watches."""

    context: Context

    async def make(self, client: LlmClient, request: LlmRequest) -> LlmResponse:
        """One attempt. Raises as `LlmClient.complete` does."""
        return await client.complete(request, call_id=self.context.envelope.message_id, deadline=self.context.remaining)


@final
class StreamedCall:
    """A call whose text is told; what is made again tells it anew."""

    def __init__(
        self,
        context: Context,
        conversation_id: str,
        *,
        settings: StreamingSettings,
        state: StateStore,
        snapshots: ReplySnapshots,
        signal: Signal,
        later: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._later = later
        self._context = context
        self._conversation_id = conversation_id
        self._settings = settings
        self._state = state
        self._snapshots = snapshots
        self._signal = signal
        self._attempt = self._made = 0

    async def make(self, client: LlmClient, request: LlmRequest) -> LlmResponse:
        """One attempt. Raises as `LlmClient.stream` does."""
        self._made += 1
        if not await self._begin():
            return await WholeCall(self._context).make(client, request)
        live = self._live()
        live.start()
        try:
            response = await self._streamed(client, request, live)
        except asyncio.CancelledError:
            live.drop()
            raise
        except Exception:
            await live.abandon()
            raise
        text = response.message.text
        envelope = self._context.envelope
        again = self._made > 1 or envelope.attempt > 1 or envelope.handbacks > 0 or envelope.redelivered
        if not await live.finish(text, again=again):
            logger.warning("the pieces of a streamed reply are not its text", extra={"model": response.model})
            self._attempt += 1
            live = self._live()
            live.add(text)
            await live.finish(text, again=True)
        self._later(live.keep())
        return response

    async def _streamed(self, client: LlmClient, request: LlmRequest, live: LiveText) -> LlmResponse:
        stream: Any = client.stream(
            request, call_id=self._context.envelope.message_id, deadline=self._context.remaining
        )
        response: LlmResponse | None = None
        async with aclosing(stream):
            async for item in stream:
                if isinstance(item, TextDelta):
                    live.add(item.text)
                else:
                    response = item
        if response is None:
            raise LlmUnknownOutcome(f"{request.model.partition('/')[0]}: the stream ended without a reply")
        return response

    async def _begin(self) -> bool:
        """Take a number for the attempt; False when that cannot be done, and nothing can be told."""
        try:
            self._attempt = max(self._attempt + 1, await self._state.now_ms())
        except StateError as exc:
            logger.info("a reply is not streamed", extra={"error": f"{type(exc).__name__}: {exc}"})
            return False
        return True

    def _live(self) -> LiveText:
        return LiveText(_Attempt(self, self._attempt), self._settings, monotonic=self._context.clock.monotonic)

    async def publish(self, attempt: int, *, sequence: int, offset: int, text: str, done: bool) -> None:
        """Send one delta."""
        envelope = self._context.envelope
        delta = LlmDelta(
            task_id=envelope.root_task_id or "",
            conversation_id=self._conversation_id,
            call_id=envelope.message_id,
            attempt=attempt,
            sequence=sequence,
            offset=offset,
            text=text,
            reset=sequence == 0,
            done=done,
        )
        made = self._context.make(
            delta, topic=topics.llm_delta(self._conversation_id), name=f"delta:{attempt}:{sequence}"
        )
        await self._signal(made)

    async def keep(self, attempt: int, *, sequence: int, text: str, done: bool) -> bool:
        """Store a snapshot."""
        envelope = self._context.envelope
        snapshot = ReplySnapshot(
            task_id=envelope.root_task_id or "",
            call_id=envelope.message_id,
            attempt=attempt,
            sequence=sequence,
            text=text,
            done=done,
        )
        return await self._snapshots.put(
            envelope.tenant, self._conversation_id, snapshot, ttl=self._settings.keep_seconds
        )


@final
@dataclass(frozen=True, slots=True)
class _Attempt:
    """Implements `rockbot_handlers.llm.live_text.Telling` for one attempt."""

    call: StreamedCall
    number: int

    async def publish(self, *, sequence: int, offset: int, text: str, done: bool) -> None:
        await self.call.publish(self.number, sequence=sequence, offset=offset, text=text, done=done)

    async def keep(self, *, sequence: int, text: str, done: bool) -> bool:
        return await self.call.keep(self.number, sequence=sequence, text=text, done=done)
