"""The words a sender and the script service share: what to run, within which limits, and what came of it.

This module is the public contract of `script.invoke.<runtime>`. It depends on pydantic and on nothing else, so
that any program can build requests and read results without the sandbox. Reading is tolerant: fields that a newer
release adds are ignored.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import BaseModel, ConfigDict, Field

Language = Literal["python", "javascript"]

LANGUAGES: tuple[Language, ...] = ("python", "javascript")

ScriptStatus = Literal[
    "ok",
    "error",
    "timeout",
    "cancelled",
    "oom",
    "output_limit",
    "stack_overflow",
    "crashed",
    "denied",
]

DEFAULT_WALL_SECONDS = 5.0
DEFAULT_MEMORY_BYTES = 256 * 1024 * 1024
DEFAULT_OUTPUT_BYTES = 1024 * 1024
MAX_CODE_BYTES = 256 * 1024
MAX_INPUT_BYTES = 8 * 1024 * 1024


def invoke_topic(language: Language) -> str:
    """Return the topic on which scripts of `language` are requested, `script.invoke.<runtime>`."""
    return f"script.invoke.{language}"


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


@final
class ScriptLimits(_Wire):
    """How much one run may take. The service lowers what exceeds its own maxima; it never raises a limit.

    `wall_seconds` counts from the moment the guest starts. `memory_bytes` bounds the memory of the guest, and
    `output_bytes` bounds standard output and standard error each (and the returned value).
    """

    wall_seconds: float = Field(default=DEFAULT_WALL_SECONDS, gt=0, allow_inf_nan=False)
    memory_bytes: int = Field(default=DEFAULT_MEMORY_BYTES, gt=0)
    output_bytes: int = Field(default=DEFAULT_OUTPUT_BYTES, gt=0)


@final
class ScriptInvoke(_Wire):
    """A request to run `code` once, in a fresh sandbox, with `input` on standard input.

    Without `limits` the defaults of the service apply.
    """

    type_name: ClassVar[str] = "rockbot.script.invoke"

    language: Language
    code: str
    input: str = ""
    limits: ScriptLimits | None = None


@final
class ScriptResult(_Wire):
    """What came of one run.

    `value` is the text of the last expression, None when there is none or it is None/undefined. `message` is one
    sentence for the reader (a person or a model): what happened, and which limit ended the run if one did.
    `truncated` says that output or value was cut. `exit_code` is set when the script ended itself.
    `memory_bytes` is what the guest held at its end, None when that is unknown; `wall_ms` is time in the sandbox.
    """

    type_name: ClassVar[str] = "rockbot.script.result"

    status: ScriptStatus
    value: str | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    exit_code: int | None = None
    wall_ms: float = 0.0
    memory_bytes: int | None = None
    engine: str = ""
    message: str = ""
