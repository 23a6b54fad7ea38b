"""What lies in a queue as a row of the storage, and back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict
from typing import Any, Final

from rockbot_messaging.letters import Discarded, Failure
from rockbot_messaging.memory.queues import MemoryQueue, Stored
from rockbot_messaging.memory.storage import Place, Row
from rockbot_messaging.packing import pack, unpack

__all__ = ["row_of", "stored_of"]

_FAILURE: Final = frozenset(field.name for field in dataclasses.fields(Failure))
#: Key of a discarded letter's fate among those of its failure.
_DISCARDED: Final = "discarded"


def row_of(
    queue: MemoryQueue,
    stored: Stored,
    place: Place,
    *,
    due_ms: int | None = None,
) -> Row:
    """The row of `stored` in a place of `queue`."""
    fields: dict[str, Any] | None = None
    if place is Place.DEAD and stored.failure is not None:
        fields = asdict(stored.failure)
        if stored.discarded is not None:
            fields[_DISCARDED] = asdict(stored.discarded)
    return Row(
        number=stored.number,
        queue=queue.name,
        place=place,
        envelope=pack(stored.envelope),
        due_ms=due_ms,
        failure=None if fields is None else json.dumps(fields),
        problem=stored.problem,
    )


def stored_of(row: Row) -> Stored:
    """What a row says; fields of a failure that this release does not know are passed over."""
    stored = Stored(row.number, unpack(row.envelope), problem=row.problem)
    if row.place is Place.DEAD and row.failure:
        fields = json.loads(row.failure)
        discarded = fields.get(_DISCARDED)
        stored.discarded = None if discarded is None else Discarded(**discarded)
        known = {name: value for name, value in fields.items() if name in _FAILURE}
        stored.failure = Failure(**{**known, "history": tuple(known.get("history", ()))})
    return stored
