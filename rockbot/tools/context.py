"""All that a running tool knows of its call, and all that it may do besides returning: one object, no callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from rockbot.events.content import FilePart
from rockbot.tools.content import File, store_file
from rockbot_messaging.artifacts import ArtifactStore, MemoryArtifacts
from rockbot_messaging.clock import Clock, SystemClock
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["ToolArtifacts", "ToolContext"]


@final
@dataclass(frozen=True, slots=True)
class ToolArtifacts:
    """The artifacts of one tenant, and of no other. For asynchronous tools; any tool may also return a `File`."""

    store: ArtifactStore
    tenant: str = DEFAULT_TENANT

    async def put(self, data: bytes | str, *, media_type: str = "", name: str = "") -> FilePart:
        """Store bytes or text; the part that stands for it may be returned. Durable then.

        Raises:
            ArtifactsUnavailable: it was not stored.
        """
        return await store_file(File(data, media_type=media_type, name=name), self.store, tenant=self.tenant)

    async def get(self, reference: str) -> bytes:
        """What lies under a part's `uri`, or under the reference in it.

        Raises:
            ArtifactMissing: this tenant has no such artifact. ArtifactsUnavailable. ValueError: it is no reference.
        """
        return await self.store.get(reference.removeprefix("artifact:"), tenant=self.tenant)


@final
@dataclass(slots=True, kw_only=True)
class ToolContext:
    """One call. ``ToolContext()`` will do to call a tool in a test.

    `call_id` names the call in the journal. `idempotency_key` is the same for every delivery and attempt of it, and for no
    other call: hand it to systems that can tell a repetition by it. `starts` above 1 means that it was begun before and that
    nobody knows how that ended (only repeatable tools see that). `deadline_ms` is epoch milliseconds.
    """

    call_id: str = "call"
    idempotency_key: str = "call"
    tenant: str = DEFAULT_TENANT
    conversation_id: str = ""
    task_id: str = ""
    agent: str = ""
    user: str = ""
    starts: int = 1
    deadline_ms: int | None = None
    artifacts: ToolArtifacts = field(default_factory=lambda: ToolArtifacts(MemoryArtifacts()))
    clock: Clock = field(default_factory=SystemClock, repr=False)
    on_progress: Callable[[str, float | None], None] | None = field(default=None, repr=False)
    _cancelled: bool = field(default=False, repr=False)

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, negative when it is over; None when there is none."""
        return None if self.deadline_ms is None else (self.deadline_ms - self.clock.now_ms()) / 1000

    @property
    def cancelled(self) -> bool:
        """Whether the result is wanted by nobody any more (cancelled, timed out): the one way a function in a thread hears it."""
        return self._cancelled

    def cancel(self) -> None:
        """Say so. An asynchronous tool is interrupted besides."""
        self._cancelled = True

    def raise_if_cancelled(self) -> None:
        """Raise `asyncio.CancelledError` when the call was cancelled: for loops in functions that run in a thread."""
        if self._cancelled:
            raise asyncio.CancelledError

    def progress(self, text: str, *, fraction: float | None = None) -> None:
        """Tell watchers how far it is; `fraction` is between 0 and 1. Returns at once, from any thread; may be lost."""
        if self.on_progress is not None:
            self.on_progress(text, fraction)
