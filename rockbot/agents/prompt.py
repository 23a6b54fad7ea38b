"""What a model is told before the conversation begins: the sections of a system prompt, each within its budget.

Pure, and the only place that decides it. Sections come in a fixed order, what changes least first, so that providers can
cache what stands before a change. A text is shown whole, or it ends with a marker that says exactly how much is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from rockbot.machines.agent_snapshot import Skill
from rockbot.tokens import estimate_tokens

__all__ = [
    "SEPARATOR",
    "Section",
    "SectionName",
    "TextFile",
    "identity_section",
    "instructions_section",
    "memory_section",
    "shortened",
    "skills_section",
    "system_prompt",
]

SectionName = Literal["identity", "instructions", "skills", "memory"]

#: What stands between two texts of a prompt.
SEPARATOR: Final = "\n\n"
_SKILLS: Final = (
    "# Skills\n\nBefore a task that one of these is for, read it with the tool read_skill and do what it says."
)
_MEMORY: Final = "# Memory\n\nWhat you noted earlier:"


@final
@dataclass(frozen=True, slots=True)
class TextFile:
    """A file's text under the name by which the settings know it."""

    name: str
    text: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section as the model is shown it.

    `sources` is what it is made of; `omitted` is how many characters its `budget` left out.
    """

    name: SectionName
    text: str
    sources: tuple[str, ...]
    budget: int
    omitted: int = 0

    @property
    def tokens(self) -> int:
        """About how many tokens it takes."""
        return estimate_tokens(self.text)


def identity_section(files: Sequence[TextFile], *, budget: int) -> Section | None:
    """Who the agent is."""
    return _section("identity", [file.text for file in files], [file.name for file in files], budget)


def instructions_section(inline: str, files: Sequence[TextFile], *, budget: int) -> Section | None:
    """What the agent is to do: the inline instructions, then the files."""
    texts = [inline, *(file.text for file in files)]
    sources = [*(["instructions"] if inline else []), *(file.name for file in files)]
    return _section("instructions", texts, sources, budget)


def skills_section(skills: Sequence[Skill], *, budget: int) -> Section | None:
    """Which skills there are, a line each; their texts are read on demand."""
    if not skills:
        return None
    lines = "\n".join(f"- {skill.name}: {skill.description}" for skill in skills)
    return _section("skills", [f"{_SKILLS}\n\n{lines}"], [skill.name for skill in skills], budget)


def memory_section(text: str, *, source: str, budget: int) -> Section | None:
    """What was noted in earlier conversations; the last section, because it changes most."""
    return _section("memory", [f"{_MEMORY}\n\n{text.strip()}"], [source], budget) if text.strip() else None


def system_prompt(sections: Iterable[Section | None]) -> str:
    """The sections as one text."""
    return SEPARATOR.join(section.text for section in sections if section is not None)


def shortened(text: str, budget: int) -> tuple[str, int]:
    """The text within `budget` characters, and how many of its characters are missing.

    A text that is cut ends with the marker ``[truncated, N chars omitted]``, which counts towards the budget.
    """
    if len(text) <= budget:
        return text, 0
    room = budget - len(_marker(len(text)))
    kept = max(0, room)
    omitted = len(text) - kept
    return text[:kept] + _marker(omitted), omitted


def _marker(omitted: int) -> str:
    return f"\n[truncated, {omitted} chars omitted]"


def _section(name: SectionName, texts: Sequence[str], sources: Sequence[str], budget: int) -> Section | None:
    whole = SEPARATOR.join(text for text in (text.strip() for text in texts) if text)
    if not whole:
        return None
    text, omitted = shortened(whole, budget)
    return Section(name=name, text=text, sources=tuple(sources), budget=budget, omitted=omitted)
