"""The port of the dead-letter service: what command line, gateway and library work dead letters with."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Literal, Protocol

from rockbot.letters.models import (
    AuditEntry,
    Edit,
    ExportedLetter,
    GroupInfo,
    LetterFilter,
    LetterPage,
    LetterView,
    Progress,
    QueueSummary,
    ReplayOptions,
)
from rockbot.operators.models import PublishedMessage

__all__ = ["LetterDesk"]


class LetterDesk(Protocol):
    """Works the dead letters of one broker.

    Letters lie in the broker; an index of them in the state store answers what needs no body. The index is brought up to
    date before it answers when the broker's counts say that it is not. `queue` is a queue's or subscription's name, also
    ``unrouted``, and ``discarded`` where that is said; `letter_id` may be a beginning of at least six characters. `actor` names
    who asks, for the audit. Every method may also raise `HostUnreachable`, `BrokerUnreachable`, `StateUnavailable`.

    Long actions are iterators of `Progress`; closing one early stops the action after the batch in hand. Killed at any
    moment and started again, an action goes on with what is left; a letter whose fate was under way may be sent twice, with
    the same id.
    """

    async def queues(self) -> list[QueueSummary]:
        """Every dead-letter queue, empty ones too, the unrouted queue last."""
        ...

    async def groups(self, which: LetterFilter) -> list[GroupInfo]:
        """Letters by what they died of, the largest group first."""
        ...

    async def find(
        self,
        which: LetterFilter,
        *,
        limit: int = 50,
        after: str | None = None,
        order: Literal["oldest", "newest"] = "oldest",
    ) -> LetterPage:
        """A page of letters.

        Raises:
            LetterNotFound: there is no such queue. InvalidRequest: the filter makes no sense, or `after` is no page's `next`.
        """
        ...

    async def letter(self, queue: str, letter_id: str) -> LetterView:
        """One letter whole; `queue` may be ``discarded``.

        Raises:
            LetterNotFound: none, or more than one, is meant.
        """
        ...

    def scan(self, queue: str | None = None) -> AsyncIterator[Progress]:
        """Compare the index with the broker, of one queue or of all, and mend it."""
        ...

    def replay(self, which: LetterFilter, options: ReplayOptions, *, actor: str) -> AsyncIterator[Progress]:
        """Send on every letter that fits and died before now: to the queue it came from, first attempt, same id.

        Raises:
            LetterNotFound: there is no such queue. InvalidRequest: `new_id` for a step of a turn.
        """
        ...

    async def edit(self, queue: str, letter_id: str, edit: Edit, *, actor: str) -> PublishedMessage:
        """Mend one letter and send it on; the original is kept among the discarded letters.

        Raises:
            LetterNotFound: as for `letter`. InvalidRequest: the edit changes something locked, something sensitive without
                `careful`, or makes the message invalid for its type; the text says where. Unroutable: the letter stays.
        """
        ...

    def discard(
        self, which: LetterFilter, *, reason: str, actor: str, dry_run: bool = False
    ) -> AsyncIterator[Progress]:
        """Put every letter that fits away; it can be restored for a week."""
        ...

    def restore(self, which: LetterFilter, *, actor: str) -> AsyncIterator[Progress]:
        """Put discarded letters that fit back where they lay; `which.queue` is the queue that they lay in."""
        ...

    def purge(self, queue: str, *, expect: int, actor: str, reason: str) -> AsyncIterator[Progress]:
        """Erase every letter of a queue for good; `queue` may be ``discarded``.

        Raises:
            InvalidRequest: the queue has more than `expect` letters: somebody should look first.
        """
        ...

    def export(self, which: LetterFilter) -> AsyncIterator[ExportedLetter]:
        """Every letter that fits, whole; nothing is changed."""
        ...

    def load(
        self, letters: AsyncIterable[ExportedLetter], *, actor: str, queue: str | None = None
    ) -> AsyncIterator[Progress]:
        """Put exported letters into the dead-letter queue they came from, or into that of `queue`."""
        ...

    async def audit(self, *, limit: int = 100) -> list[AuditEntry]:
        """What was done to letters, the latest first."""
        ...
