"""Decides, without running anything, whether a script may run and within which limits.

Pure functions: the same request and settings give the same answer everywhere.
"""

from __future__ import annotations

from rockbot_scripts.contract import (
    MAX_CODE_BYTES,
    MAX_INPUT_BYTES,
    ScriptInvoke,
    ScriptLimits,
    ScriptResult,
)
from rockbot_scripts.settings import ScriptSettings

MIN_MEMORY_BYTES = 32 * 1024 * 1024
"""Below this the Python guest cannot even start, so a smaller wish is raised to it."""

MIN_WALL_SECONDS = 0.01


def clamp(requested: ScriptLimits | None, settings: ScriptSettings) -> ScriptLimits:
    """Return the limits that apply: the wish of the sender, or the defaults, never above the service's maxima."""
    if requested is None:
        wall = settings.default_wall_seconds
        memory = settings.default_memory_bytes
        output = settings.default_output_bytes
    else:
        wall, memory, output = requested.wall_seconds, requested.memory_bytes, requested.output_bytes
    return ScriptLimits(
        wall_seconds=max(MIN_WALL_SECONDS, min(wall, settings.max_wall_seconds)),
        memory_bytes=min(max(memory, MIN_MEMORY_BYTES), settings.max_memory_bytes),
        output_bytes=min(output, settings.max_output_bytes),
    )


def refusal(invoke: ScriptInvoke) -> ScriptResult | None:
    """Return a `denied` result when the request is larger than the service accepts, else None."""
    for name, text, limit in (
        ("code", invoke.code, MAX_CODE_BYTES),
        ("input", invoke.input, MAX_INPUT_BYTES),
    ):
        size = len(text.encode("utf-8", "replace"))
        if size > limit:
            return ScriptResult(
                status="denied",
                message=f"The script was not run: its {name} has {size} bytes and the limit is {limit} bytes.",
            )
    return None


def bytes_in_words(size: int) -> str:
    """Return a byte count the way a person reads it: `256 MiB`, `1.5 KiB`, `12 bytes`."""
    for unit, scale in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size} bytes"
