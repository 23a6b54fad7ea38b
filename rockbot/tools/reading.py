"""The built-in tool that pages through artifacts: what was too long to be told, and files that other tools made."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import Field

from rockbot.tools.context import ToolContext
from rockbot.tools.errors import ToolError
from rockbot.tools.toolset import Toolset
from rockbot_messaging.artifacts import ArtifactMissing

__all__ = ["ARTIFACTS", "read_artifact"]

ARTIFACTS: Final = Toolset("artifacts")

_MOST_CHARS: Final = 16_000
_MOST_LINES: Final = 200
#: Characters of a line that are looked at and shown.
_LONGEST_LINE: Final = 500


@ARTIFACTS.tool(read_only=True, timeout=30, output_limit=20_000)
async def read_artifact(
    id: Annotated[str, Field(min_length=1, max_length=200)],
    context: ToolContext,
    offset: Annotated[int, Field(ge=0)] = 0,
    limit: Annotated[int, Field(ge=1, le=_MOST_CHARS)] = 8000,
    grep: Annotated[str, Field(max_length=200)] = "",
) -> str:
    """Read a part of a stored text: of a result that was truncated, or of a file.

    Args:
        id: What stands behind "at" where the file is named: artifact:sha256:...
        offset: Characters to skip from the beginning.
        limit: Characters to read.
        grep: Show only the lines that contain this text (case does not count), with their numbers, from the offset on.
    """
    try:
        data = await context.artifacts.get(id)
    except ArtifactMissing:
        raise ToolError("there is no such artifact") from None
    except ValueError:
        raise ToolError("id is no artifact: it reads artifact:sha256:<64 hex digits>;<bytes>, as it was told") from None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ToolError(f"the artifact is binary ({len(data)} bytes), there is no text to read") from None
    if grep:
        return _found(text, grep, offset)
    end = min(offset + limit, len(text))
    if offset >= len(text):
        raise ToolError(f"offset {offset} is behind the end: the text has {len(text)} characters")
    rest = f"; go on at offset {end}" if end < len(text) else ", the end"
    return f"[characters {offset} to {end} of {len(text)}{rest}]\n{text[offset:end]}"


def _found(text: str, grep: str, offset: int) -> str:
    wanted = re.compile(re.escape(grep), re.IGNORECASE)
    shown: list[str] = []
    at, size = 0, 0
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if at >= offset and (hit := wanted.search(line)):
            start = max(0, hit.start() - _LONGEST_LINE // 2)
            said = f"{number} (offset {at + start}): {line[start : start + _LONGEST_LINE].rstrip()}"
            if len(shown) == _MOST_LINES or size + len(said) > _MOST_CHARS:
                return "\n".join([*shown, f"[more lines match; go on at offset {at}]"])
            shown.append(said)
            size += len(said) + 1
        at += len(line)
    return "\n".join(shown) or f"[no line from offset {offset} on contains this text]"
