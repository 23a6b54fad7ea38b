"""Puts what happened to a script into one sentence, and a worker's answer into a result.

The answer of a worker is checked like any foreign input: a worker that was taken over can say what it likes, and must
not be able to do more than that.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rockbot_scripts.contract import ScriptLimits, ScriptResult, ScriptStatus
from rockbot_scripts.policy import bytes_in_words


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    status: ScriptStatus
    value: str | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    exit_code: int | None = None
    wall_ms: float = 0.0
    memory: int | None = None
    reason: str = ""


def sentence(status: ScriptStatus, limits: ScriptLimits, *, reason: str = "", exit_code: int | None = None) -> str:
    """Return one sentence for the reader of a result: what happened, and which limit it was."""
    match status:
        case "ok":
            return "The script ran to its end."
        case "error" if exit_code is not None:
            return f"The script ended itself with exit code {exit_code}."
        case "error":
            return f"The script failed: {reason.rstrip('.')}." if reason else "The script failed."
        case "timeout":
            return f"The script was stopped because it ran longer than its time limit of {limits.wall_seconds:g} s."
        case "cancelled":
            return "The script was stopped because its run was cancelled."
        case "oom":
            size = bytes_in_words(limits.memory_bytes)
            return f"The script was stopped because it needed more memory than its limit of {size}."
        case "output_limit":
            size = bytes_in_words(limits.output_bytes)
            return f"The script was stopped because it wrote more than its limit of {size} to one output stream."
        case "stack_overflow":
            return "The script was stopped because its calls were nested too deeply for the stack."
        case "crashed":
            return (
                f"The script crashed its interpreter ({reason})." if reason else "The script crashed its interpreter."
            )
        case "denied":
            return f"The script was not run: {reason}." if reason else "The script was not run."


def result(answer: dict[str, Any], limits: ScriptLimits, *, engine: str) -> ScriptResult:
    """Return the result for a worker's answer; raises ValueError when the answer is not one."""
    try:
        said = _Answer.model_validate(answer)
    except ValidationError as failure:
        raise ValueError(f"a worker's answer is malformed in {failure.error_count()} places") from None
    return ScriptResult(
        status=said.status,
        value=said.value,
        stdout=said.stdout,
        stderr=said.stderr,
        truncated=said.truncated,
        exit_code=said.exit_code,
        wall_ms=round(said.wall_ms, 3),
        memory_bytes=said.memory,
        engine=engine,
        message=sentence(said.status, limits, reason=said.reason, exit_code=said.exit_code),
    )


def verdict(
    status: ScriptStatus, limits: ScriptLimits, *, engine: str, seconds: float = 0.0, reason: str = ""
) -> ScriptResult:
    """Return a result that the supervisor gives of its own: the worker was killed, or never asked."""
    return ScriptResult(
        status=status,
        wall_ms=round(seconds * 1000.0, 3),
        engine=engine,
        message=sentence(status, limits, reason=reason),
    )
