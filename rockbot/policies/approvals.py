"""What somebody agreed to: one tool with exactly these arguments, known by a hash that anybody can compute again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, final

from pydantic import BaseModel, ConfigDict

__all__ = ["Approval", "argument_hash"]


@final
class Approval(BaseModel):
    """Travels with a call that needed one. `by` is who decided, `argument_hash` what was shown to them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    approval_id: str
    argument_hash: str
    by: str = ""

    def covers(self, tool: str, arguments: Mapping[str, Any]) -> bool:
        """Whether it was given to this tool with exactly these arguments."""
        return self.argument_hash == argument_hash(tool, arguments)


def argument_hash(tool: str, arguments: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of the tool's name and its arguments; the order of names in an object does not count."""
    text = json.dumps([tool, arguments], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
