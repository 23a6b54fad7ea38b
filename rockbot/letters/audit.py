"""Who did what to letters: a row for each action, the latest first, and a line in the log. No bodies, ever.

The row is written before the first letter is touched, and again with every batch: an action that is killed has its row.
"""

from __future__ import annotations

import itertools
import logging
from typing import Final, final

from pydantic import ValidationError

from rockbot.letters.index import SYSTEM
from rockbot.letters.models import Action, AuditEntry
from rockbot.state.keys import Key, key, prefix
from rockbot.state.ports import StateStore, Write
from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.measures import Measures, Names

__all__ = ["Audit", "Deed"]

logger = logging.getLogger(__name__)

_SPACE: Final = "letter-audit"
_LATEST: Final = 10**15 - 1
_NAMED: Final = 100
_PAGE: Final = 500
#: How long an entry is kept.
_SECONDS: Final = 366 * 86_400.0


@final
class Deed:
    """One action on one queue, as far as it has got."""

    def __init__(
        self, action: Action, *, at_ms: int, entry: Key, actor: str, queue: str, reason: str, detail: str
    ) -> None:
        self._action: Action = action
        self._at_ms = at_ms
        self._entry = entry
        self._actor = actor
        self._queue = queue
        self._reason = reason
        self._detail = detail
        self._letters: list[str] = []
        self.count = 0

    def add(self, letter_id: str, count: int = 1) -> None:
        """One more letter."""
        self.count += count
        if len(self._letters) < _NAMED:
            self._letters.append(letter_id)

    def take_back(self, letter_ids: set[str], count: int) -> None:
        """So many letters stayed after all, these among them."""
        self.count -= count
        self._letters = [each for each in self._letters if each not in letter_ids]

    @property
    def entry(self) -> AuditEntry:
        """As it is told."""
        return AuditEntry(
            at_ms=self._at_ms,
            action=self._action,
            actor=self._actor,
            queue=self._queue,
            count=self.count,
            letters=tuple(self._letters),
            reason=self._reason,
            detail=self._detail,
        )

    def write(self) -> Write:
        """The write of its row."""
        return Write(key=self._entry, value=self.entry.model_dump_json().encode(), ttl=_SECONDS)


@final
class Audit:
    """Entries in `store`, kept for a year."""

    def __init__(self, store: StateStore, *, clock: Clock, ids: IdSource, measures: Measures) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._measures = measures
        self._begun = itertools.count()

    def begin(self, action: Action, *, actor: str, queue: str, reason: str = "", detail: str = "") -> Deed:
        """An action that may touch letters now; nothing is written yet."""
        at_ms = self._clock.now_ms()
        # What one process does within a millisecond stays in order, too.
        place = f"{max(0, _LATEST - at_ms):015d}-{9999 - next(self._begun) % 10_000:04d}"
        entry = key(SYSTEM, _SPACE, place, self._ids.new_id())
        return Deed(action, at_ms=at_ms, entry=entry, actor=actor, queue=queue, reason=reason, detail=detail)

    async def end(self, deed: Deed) -> None:
        """Write an action down as it ended, log and count it; one that touched nothing leaves nothing.

        Raises:
            StateUnavailable: the store cannot write.
        """
        if deed.count <= 0:
            await self._store.delete(deed.write().key)
            return
        await self._store.put(deed.write().key, deed.write().value or b"", ttl=_SECONDS)
        entry = deed.entry
        self._measures.count(Names.LETTERS_WORKED, entry.count, queue=entry.queue, action=entry.action)
        logger.info(
            "dead letters were worked",
            extra={
                "action": entry.action,
                "actor": entry.actor,
                "queue": entry.queue,
                "count": entry.count,
                "letters": list(entry.letters[:10]),
                "reason": entry.reason,
                "detail": entry.detail,
            },
        )

    async def entries(self, limit: int) -> list[AuditEntry]:
        """The latest `limit` entries, the latest first."""
        found: list[AuditEntry] = []
        after: str | None = None
        while len(found) < limit:
            page = await self._store.list(
                prefix(SYSTEM, _SPACE), after=after, limit=min(_PAGE, max(1, limit - len(found)))
            )
            for each in page.entries:
                try:
                    found.append(AuditEntry.model_validate_json(each.value))
                except ValidationError:  # of a newer release
                    continue
            if page.next is None:
                break
            after = page.next
        return found
