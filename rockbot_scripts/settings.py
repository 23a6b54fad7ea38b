"""Everything that can be configured about the script service, as plain data.

The host embeds this model as the `[scripts]` table of its settings file; the service takes it as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

from pydantic import BaseModel, ConfigDict, Field

from rockbot_scripts.contract import (
    DEFAULT_MEMORY_BYTES,
    DEFAULT_OUTPUT_BYTES,
    DEFAULT_WALL_SECONDS,
)

MIB = 1024 * 1024


@final
class ScriptSettings(BaseModel):
    """Settings of the script service. Sizes are bytes, durations seconds.

    The `default_*` limits apply to a request that names none; the `max_*` limits cap what a request may ask for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | None = Field(default=None, ge=1, description="warm worker processes; default: one per core")
    default_wall_seconds: float = Field(default=DEFAULT_WALL_SECONDS, gt=0, allow_inf_nan=False)
    default_memory_bytes: int = Field(default=DEFAULT_MEMORY_BYTES, ge=32 * MIB)
    default_output_bytes: int = Field(default=DEFAULT_OUTPUT_BYTES, ge=1024)
    max_wall_seconds: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    max_memory_bytes: int = Field(default=512 * MIB, ge=32 * MIB)
    max_output_bytes: int = Field(default=4 * MIB, ge=1024)
    cache_dir: Path | None = Field(
        default=None, description="where the sandbox files are built; default: $XDG_CACHE_HOME/rockbot/wasm"
    )
    strict: bool = Field(default=False, description="refuse to start when the kernel lacks a part of the lock")
    claim_seconds: float = Field(default=5.0, gt=0, le=60, description="what a killed service costs its call")
    recycle_after: int = Field(default=200, ge=1, description="runs after which a worker is replaced")
    call_log: Path | None = Field(
        default=None, description="append one JSON line per execution (call id and language) to this file"
    )
