"""Skills: folders with a ``SKILL.md``, whose front matter says when to read the rest.

Only names and descriptions are in the prompt; the text is read by the built-in tool, and comes from the turn's own
snapshot, so that it is the same on every replica and does not change in mid-turn.
"""

from __future__ import annotations

import re
from typing import Final

from rockbot.machines.agent_snapshot import Skill
from rockbot.machines.skill_reading import READ_SKILL

__all__ = ["READ_SKILL", "SKILL_FILE", "parse_skill"]

#: What a skill's folder has in it.
SKILL_FILE: Final = "SKILL.md"

_FRONT: Final = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)(.*)\Z", re.DOTALL)
_PAIR: Final = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):[ \t]*(.*)")
_NAME: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LONGEST_NAME: Final = 64
_LONGEST_DESCRIPTION: Final = 1024


def parse_skill(text: str, *, folder: str) -> Skill:
    """The skill that the text of a ``SKILL.md`` describes; `folder` is the name of the folder that it lies in.

    Of the front matter, `name` and `description` are read; a value may be quoted, and go on in indented lines.

    Raises:
        ValueError: there is no front matter, or name or description are missing or not what they must be.
    """
    found = _FRONT.match(text)
    if found is None:
        raise ValueError("it must begin with front matter: a line ---, name: and description:, a line ---")
    values = _values(found.group(1))
    name, description = values.get("name", ""), values.get("description", "")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ValueError(
            f"its name must be lower-case letters, digits and single hyphens, at most {_LONGEST_NAME} characters;"
            f" it is {name!r}"
        )
    if name != folder:
        raise ValueError(f"its name is {name!r} and its folder {folder!r}; they must be the same")
    if not 0 < len(description) <= _LONGEST_DESCRIPTION:
        raise ValueError(f"its description must have 1 to {_LONGEST_DESCRIPTION} characters, it has {len(description)}")
    return Skill(name=name, description=description, body=found.group(2).strip())


def _values(front: str) -> dict[str, str]:
    values: dict[str, str] = {}
    key = ""
    for line in front.splitlines():
        if key and line[:1] in (" ", "\t"):
            values[key] = f"{values[key]} {line.strip()}".strip()
        elif pair := _PAIR.fullmatch(line):
            key = pair.group(1)
            values[key] = "" if pair.group(2).strip() in ("|", ">", "|-", ">-") else pair.group(2).strip()
    return {key: _unquoted(value) for key, value in values.items()}


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value
