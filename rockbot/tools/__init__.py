"""Tools from functions: what a package imports that offers some.

crm = Toolset("crm")

@crm.tool(read_only=True, timeout=20)
async def lookup(customer: str, context: ToolContext) -> str:
    "Find a customer by name."
"""

from __future__ import annotations

from rockbot.errors import TemporaryFailure
from rockbot.tools.content import File
from rockbot.tools.context import ToolContext
from rockbot.tools.errors import ToolDefinitionError, ToolError
from rockbot.tools.toolset import FunctionTool, Toolset

__all__ = ["File", "FunctionTool", "TemporaryFailure", "ToolContext", "ToolDefinitionError", "ToolError", "Toolset"]
