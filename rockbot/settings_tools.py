"""The settings of function tools: where they come from, which of them run here, and what bounds them."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ToolSettings"]


class ToolSettings(BaseModel):
    """Function tools.

    `files` are Python files with toolsets, besides those of installed packages; `toolsets` names the installed ones that are
    offered (None: all). `run` names the toolsets whose calls this process makes (None: all that are offered); the others are
    left to other processes. `output_limit` is how many characters of a result a model sees, `max_threads` how many
    functions run in threads at a time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: tuple[Path, ...] = ()
    toolsets: tuple[str, ...] | None = None
    run: tuple[str, ...] | None = None
    output_limit: int = Field(default=16_000, ge=200)
    max_threads: int = Field(default=32, ge=1, le=1000)

    @model_validator(mode="after")
    def _each_once(self) -> ToolSettings:
        if len({path.absolute() for path in self.files}) < len(self.files):
            raise ValueError("tools.files names a file twice")
        return self
