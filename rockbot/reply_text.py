"""Puts the text of one reply together from deltas that may be late, lost or of an earlier attempt.

Pure. Whoever takes the deltas of a call in any order, and a snapshot whenever `missing` says that one is needed, has in the
end the text that the model said.
"""

from __future__ import annotations

from typing import final

from rockbot.events.models import LlmDelta
from rockbot.state.replies import ReplySnapshot

__all__ = ["ReplyText"]

#: Deltas of one call that are kept while an earlier one is missing; a snapshot brings what is beyond.
_KEPT = 1000


@final
class ReplyText:
    """The reply to one call, as far as it is known."""

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.task_id = ""
        self.attempt = 0
        self.text = ""
        self.done = False
        self._next = 0
        self._later: dict[int, LlmDelta] = {}

    @property
    def missing(self) -> bool:
        """Whether deltas are here that do not join on to the text."""
        return bool(self._later)

    def take(self, delta: LlmDelta) -> bool:
        """Take in one delta; whether the text, or whether it is done, has changed."""
        if delta.attempt < self.attempt or (delta.attempt == self.attempt and delta.sequence < self._next):
            return False
        changed = False
        if delta.attempt > self.attempt:
            changed = self._start(delta.attempt, delta.task_id)
        if len(self._later) < _KEPT or delta.sequence == self._next:
            self._later[delta.sequence] = delta
        return self._join() or changed

    def restore(self, snapshot: ReplySnapshot) -> bool:
        """Take in a snapshot, unless more than it says is known; whether anything has changed."""
        if (snapshot.attempt, snapshot.sequence) <= (self.attempt, self._next):
            return False
        if snapshot.attempt > self.attempt:
            self._start(snapshot.attempt, snapshot.task_id)
        self.text, self.done, self._next = snapshot.text, snapshot.done, snapshot.sequence
        self._later = {at: delta for at, delta in self._later.items() if at >= snapshot.sequence}
        self._join()
        return True

    def _start(self, attempt: int, task_id: str) -> bool:
        changed = bool(self.text)
        self.attempt, self.task_id, self.text, self.done, self._next = attempt, task_id, "", False, 0
        self._later.clear()
        return changed

    def _join(self) -> bool:
        changed = False
        while (delta := self._later.get(self._next)) is not None and delta.offset == len(self.text):
            del self._later[self._next]
            self._next += 1
            self.text += delta.text
            self.done = delta.done
            changed = changed or bool(delta.text) or delta.done
        return changed
