"""Settings of replies that are told while the model writes them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["StreamingSettings"]


class StreamingSettings(BaseModel):
    """What model workers tell watchers of a reply before it is complete.

    `enabled` false has them ask for whole replies: nothing is published, nothing stored. A delta leaves when `batch_seconds`
    have passed since the first text in it, or when it has `batch_chars` characters. The text so far is stored every
    `snapshot_seconds`, or when `snapshot_bytes` more of it are there, and kept for `keep_seconds` after that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    enabled: bool = True
    batch_seconds: float = Field(default=0.06, ge=0.01, le=5)
    batch_chars: int = Field(default=400, ge=1, le=100_000)
    snapshot_seconds: float = Field(default=1, ge=0.1, le=60)
    snapshot_bytes: int = Field(default=4096, ge=256)
    keep_seconds: float = Field(default=300, ge=1, le=86_400)
