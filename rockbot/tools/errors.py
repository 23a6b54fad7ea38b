"""What a tool raises to be understood by its model, and what is raised when a function cannot be a tool.

A tool that knows that nothing was done and that trying again may help raises `rockbot.errors.TemporaryFailure`.
"""

from __future__ import annotations

__all__ = ["FunctionRaised", "ToolDefinitionError", "ToolError"]


class ToolError(Exception):
    """The call failed for a reason that the model should hear: the text is told to it as it is. Nothing is retried."""


class ToolDefinitionError(TypeError):
    """A function cannot be a tool as it is written; the text names the parameter and says what to change."""


class FunctionRaised(Exception):
    """A tool's function raised what no tool is meant to raise: `error`. Whoever made the call judges it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error
