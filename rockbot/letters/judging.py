"""Judges that need to know nothing of a letter."""

from __future__ import annotations

from collections.abc import Sequence

from rockbot.letters.working import Judge, Ruling
from rockbot_messaging.letters import Fate, Keep, Letter

__all__ = ["all_of", "only_first"]


def all_of(fate: Fate) -> Judge:
    """The same fate for each letter."""

    async def judge(letters: Sequence[Letter]) -> Sequence[Ruling]:
        return [Ruling(fate)] * len(letters)

    return judge


def only_first(fate: Fate) -> Judge:
    """Of several copies of one message, one."""
    fates = [fate]

    async def judge(letters: Sequence[Letter]) -> Sequence[Ruling]:
        return [Ruling(fates.pop() if fates else Keep()) for _ in letters]

    return judge
