"""A script's result as the text a model reads: everything labelled, every limit named."""

from __future__ import annotations

from typing import Final

from rockbot_handlers.scripts.events import ScriptResult

__all__ = ["render"]

_WITHOUT_MESSAGE: Final = {
    "error": "the script failed",
    "cancelled": "the run was cancelled",
    "oom": "the script needed more memory than its limit",
    "output_limit": "the script wrote more output than its limit",
    "stack_overflow": "the script nested its calls too deeply",
    "crashed": "the sandbox crashed",
    "denied": "the script was not run",
}


def render(result: ScriptResult) -> str:
    """The text for the model."""
    sections = []
    if result.status != "ok":
        sections.append(f"{result.status}: {_reason(result)}")
    if result.exit_code:
        sections.append(f"exit code: {result.exit_code}")
    if result.value is not None:
        separator = "\n" if "\n" in result.value else " "
        sections.append(f"value:{separator}{result.value}")
    for label, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        if text:
            sections.append(f"{label}:\n{text.rstrip()}")
    if not sections:
        sections.append("The script ran, printed nothing and ended without a value.")
    if result.truncated:
        sections.append("(the sandbox cut the output at its own limit)")
    return "\n".join(sections)


def _reason(result: ScriptResult) -> str:
    if result.message:
        return result.message
    if result.status == "timeout":
        return f"timed out after {result.wall_ms / 1000:.3g} s"
    return _WITHOUT_MESSAGE.get(result.status, "the script failed")
