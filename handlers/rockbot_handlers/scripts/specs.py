"""The tools as models see them, and what their arguments must look like."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rockbot.events import ToolSpec
from rockbot.events.registry import explain
from rockbot_scripts.contract import Language

__all__ = ["LANGUAGE_OF", "MAX_CHARS", "TIMEOUT_SECONDS", "TOOLS", "TOOLSET", "Arguments", "check_arguments"]

TOOLSET: Final = "scripts"

#: One call from request to answer, waiting for a free sandbox included; the run itself has the service's own limit.
TIMEOUT_SECONDS: Final = 60.0

#: Characters of one result that reach the model; the whole of a longer one is an artifact.
MAX_CHARS: Final = 32_000

_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "code": {
            "type": "string",
            "minLength": 1,
            "description": "The whole program. Nothing is kept from earlier calls.",
        },
        "input": {"type": "string", "description": "What the program reads from standard input. Empty unless given."},
    },
    "required": ["code"],
    "additionalProperties": False,
}

_SHARED: Final = (
    "Each call runs once in a fresh, isolated sandbox and keeps nothing: no network, no files of the computer, no other "
    "processes, no installed packages. Time (seconds), memory and output are limited; a run that exceeds a limit is stopped "
    "and the answer names the limit. Print what you want to see, or end with an expression: its value comes back. "
    "Use it for arithmetic, for working on text or data that you pass in, and to check what you claim."
)

_ABOUT: Final[dict[Language, str]] = {
    "python": "Run a Python 3 program (standard library only). ",
    "javascript": "Run a JavaScript program (ECMAScript only: no DOM, no Node modules, no fetch). ",
}

#: Tool name to the language it runs.
LANGUAGE_OF: Final[dict[str, Language]] = {"run_python": "python", "run_javascript": "javascript"}

TOOLS: Final[tuple[ToolSpec, ...]] = tuple(
    ToolSpec(
        name=name,
        description=_ABOUT[language] + _SHARED,
        input_schema=_SCHEMA,
        toolset=TOOLSET,
        idempotent=True,
        read_only=True,
        timeout_seconds=TIMEOUT_SECONDS,
        output_limit=MAX_CHARS,
    )
    for name, language in LANGUAGE_OF.items()
)


class Arguments(BaseModel):
    """The schema above, enforced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    code: Annotated[str, Field(min_length=1)]
    input: str = ""


def check_arguments(arguments: dict[str, Any]) -> Arguments:
    """The arguments of a call.

    Raises:
        ValueError: they do not fit the schema; the text tells the model what to mend.
    """
    try:
        return Arguments.model_validate(arguments)
    except ValidationError as exc:
        raise ValueError(f"the tool was not called, its arguments do not fit: {explain(exc)}") from None
