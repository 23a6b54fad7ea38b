"""The tool that reads a skill: answered by the turn itself, from the snapshot it began with.

So the text is the same on every replica and after every restart, costs no message, and cannot change in mid-turn.
"""

from __future__ import annotations

from typing import Final

from rockbot.events.content import TextPart, ToolCallPart, ToolResultPart
from rockbot.events.tools import ToolSpec
from rockbot.machines.agent_snapshot import AgentSnapshot

__all__ = ["READ_SKILL", "TOOLSET", "read_skill"]

#: The toolset of what turns answer themselves; no worker receives calls of it.
TOOLSET: Final = "turn"

READ_SKILL: Final = ToolSpec(
    name="read_skill",
    description="Read a skill's whole text. Do so before you do what it is for.",
    input_schema={
        "type": "object",
        "properties": {"name": {"type": "string", "description": "The skill's name."}},
        "required": ["name"],
        "additionalProperties": False,
    },
    toolset=TOOLSET,
    idempotent=True,
    read_only=True,
)


def read_skill(asked: ToolCallPart, agent: AgentSnapshot) -> ToolResultPart | None:
    """The result of a call of `read_skill`; None for calls of other tools, and where the agent has no skills."""
    if asked.tool != READ_SKILL.name or not agent.skills:
        return None
    name = asked.arguments.get("name")
    skill = next((skill for skill in agent.skills if skill.name == name), None)
    if skill is None:
        known = ", ".join(skill.name for skill in agent.skills)
        text = f"there is no skill {name!r}; the skills are: {known}"
        return ToolResultPart(call_id=asked.call_id, parts=(TextPart(text=text),), is_error=True)
    return ToolResultPart(call_id=asked.call_id, parts=(TextPart(text=skill.body),))
