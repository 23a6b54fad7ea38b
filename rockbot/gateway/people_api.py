"""What travels between the gateway and its clients about turns."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from rockbot.events import DecisionKind
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["CancelRequest", "DecisionRequest"]


class _Given(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DecisionRequest(_Given):
    """A decision on an open approval or question; see `rockbot.events.ApprovalDecision`."""

    decision: DecisionKind
    arguments: dict[str, Any] | None = None
    text: str = ""
    always: bool = False
    by: str = ""
    argument_hash: str = ""
    tenant: str = DEFAULT_TENANT


class CancelRequest(_Given):
    """Why, and by whom, a task is cancelled."""

    reason: str = ""
    by: str = ""
    tenant: str = DEFAULT_TENANT
