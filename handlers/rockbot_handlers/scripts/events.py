"""The script service's messages as events of the host: the service's own contract, field by field."""

from __future__ import annotations

from typing import ClassVar

from rockbot.events import Event
from rockbot_scripts import contract

__all__ = ["ScriptInvoke", "ScriptResult"]


class ScriptInvoke(Event):
    """Run code once in a fresh sandbox; the result goes to the return address."""

    type_name: ClassVar[str] = contract.ScriptInvoke.type_name
    topics: ClassVar[tuple[str, ...]] = ("script.invoke.*",)

    language: contract.Language
    code: str
    input: str = ""
    limits: contract.ScriptLimits | None = None


class ScriptResult(Event):
    """What came of one run."""

    type_name: ClassVar[str] = contract.ScriptResult.type_name

    status: contract.ScriptStatus
    value: str | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    exit_code: int | None = None
    wall_ms: float = 0.0
    memory_bytes: int | None = None
    engine: str = ""
    message: str = ""
