"""Settings of what is kept of tasks and conversations that have ended."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["HistorySettings"]


class HistorySettings(BaseModel):
    """How long tasks that have ended are listed: `keep_days`, 0 is for ever.

    With `conversations` a whole conversation is forgotten when the last of its tasks ended that long ago.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    keep_days: float = Field(default=0, ge=0)
    conversations: bool = False
