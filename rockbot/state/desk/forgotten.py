"""What is said of forgetting: what was removed, what was left, and why it was refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final, final

from pydantic import BaseModel, ConfigDict

from rockbot.letters.index import SYSTEM
from rockbot.state.data import Entry, StateError
from rockbot.state.keys import Prefix, key_parts, prefix
from rockbot.state.ports import StateStore

__all__ = ["ForgetRefused", "Forgotten", "LettersLeft", "entries_under", "letters_left"]

_PAGE: Final = 200
_LETTERS: Final = prefix(SYSTEM, "letter")


class ForgetRefused(StateError):
    """Work is under way that would write anew what is forgotten; the text says what to do."""


class LettersLeft(BaseModel):
    """Dead letters that still lie in the broker; their rows in the index go with them."""

    model_config = ConfigDict(frozen=True)

    queue: str
    count: int


@final
class Forgotten(BaseModel):
    """What was removed, by what it was, and the dead letters that were left."""

    model_config = ConfigDict(frozen=True)

    tenant: str
    conversation: str | None = None
    removed: dict[str, int] = {}
    letters: tuple[LettersLeft, ...] = ()


async def letters_left(store: StateStore, tenant: str, conversation_id: str | None) -> tuple[LettersLeft, ...]:
    """Dead letters by queue, as the index knows them."""
    counts: Counter[str] = Counter()
    async for entries in entries_under(store, _LETTERS):
        for entry in entries:
            try:
                row = json.loads(entry.value)
            except ValueError:
                continue
            if row.get("tenant", "default") == tenant and conversation_id in (None, row.get("conv")):
                counts[key_parts(entry.key)[2]] += 1
    return tuple(LettersLeft(queue=queue, count=count) for queue, count in sorted(counts.items()))


async def entries_under(store: StateStore, under: Prefix) -> AsyncIterator[tuple[Entry, ...]]:
    """Every entry under a prefix, some at a time."""
    after: str | None = None
    while True:
        page = await store.list(under, after=after, limit=_PAGE)
        yield page.entries
        if (after := page.next) is None:
            return
