"""A script's result as the text a model reads: everything labelled, every limit named, every cut marked exactly."""

from __future__ import annotations

from typing import Final

from rockbot_handlers.scripts.events import ScriptResult

__all__ = ["MAX_CHARS", "render", "shorten"]

#: Characters of one result that reach the model.
MAX_CHARS: Final = 32_000

#: Room kept for the marker itself.
_MARKER_CHARS: Final = 64

_WITHOUT_MESSAGE: Final = {
    "error": "the script failed",
    "cancelled": "the run was cancelled",
    "oom": "the script needed more memory than its limit",
    "output_limit": "the script wrote more output than its limit",
    "stack_overflow": "the script nested its calls too deeply",
    "crashed": "the sandbox crashed",
    "denied": "the script was not run",
}


def render(result: ScriptResult, *, limit: int = MAX_CHARS) -> str:
    """The text for the model, at most `limit` characters."""
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
    return shorten("\n".join(sections), limit)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters: head and tail stay, and a marker between them says how much is missing."""
    if len(text) <= limit:
        return text
    kept = limit - _MARKER_CHARS
    tail = kept // 4
    head = kept - tail
    return f"{text[:head]}\n[truncated, {len(text) - kept} chars omitted]\n{text[len(text) - tail :]}"


def _reason(result: ScriptResult) -> str:
    if result.message:
        return result.message
    if result.status == "timeout":
        return f"timed out after {result.wall_ms / 1000:.3g} s"
    return _WITHOUT_MESSAGE.get(result.status, "the script failed")
