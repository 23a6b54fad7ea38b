"""The turn desk over the socket of a running host, and what it sends."""

from __future__ import annotations

from typing import Any, final

from pydantic import BaseModel, ConfigDict, Field

from rockbot.gateway.calls import Calls, segment
from rockbot.letters.models import Progress
from rockbot.turns.models import Fork, TurnStory
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["ForkRequest", "ResumeRequest", "SocketTurns"]


class _Given(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str = DEFAULT_TENANT


class ForkRequest(_Given):
    """Copy a conversation as it was after its record `at` (None: the last); `name` is the copy's id, None makes one."""

    at: int | None = Field(default=None, ge=1)
    name: str | None = None


class ResumeRequest(_Given):
    """Send on the dead letters that a turn waits for. `actor` names who asks, for the audit."""

    actor: str = Field(default="", max_length=200)
    dry_run: bool = False


@final
class SocketTurns:
    """Implements `rockbot.turns.desk.TurnDesk` by calling the gateway."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def story(self, task_id: str, *, tenant: str = DEFAULT_TENANT) -> TurnStory:
        query: dict[str, Any] = {"tenant": tenant}
        return TurnStory.model_validate_json(await self._calls.get(f"/turns/{segment(task_id)}", query))

    async def fork(
        self,
        conversation_id: str,
        *,
        at: int | None = None,
        name: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Fork:
        request = ForkRequest(at=at, name=name, tenant=tenant)
        path = f"/conversations/{segment(conversation_id)}/fork"
        return Fork.model_validate_json(await self._calls.post(path, request))

    async def resume(
        self, task_id: str, *, actor: str, dry_run: bool = False, tenant: str = DEFAULT_TENANT
    ) -> Progress:
        request = ResumeRequest(actor=actor, dry_run=dry_run, tenant=tenant)
        return Progress.model_validate_json(await self._calls.post(f"/turns/{segment(task_id)}/resume", request))
