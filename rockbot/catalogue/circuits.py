"""What hosts have agreed on about a provider, as far as others may read it: whether anything is sent to it at present.

The workers of model calls write it, under the keys that are built here; to everybody else it is a look at the state store.
"""

from __future__ import annotations

from typing import Final, final

from pydantic import BaseModel, ConfigDict, ValidationError

from rockbot.state.keys import Key, key, key_parts, prefix
from rockbot.state.ports import StateStore

__all__ = ["CIRCUIT", "ToldCircuit", "backend_key", "circuits"]

#: The part of a provider's keys under which its circuit is.
CIRCUIT: Final = "circuit"
_SPACE: Final = "backend"
_PAGE: Final = 200


@final
class ToldCircuit(BaseModel):
    """How a provider stands: nothing is sent before `until_ms`; while `doubtful`, one call at a time is tried after that.

    `cause` is ``breaker`` (its calls failed) or ``throttled`` (it asked to be left alone), `error` the last thing it said.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    until_ms: int = 0
    doubtful: bool = False
    cause: str = "breaker"
    error: str = ""


def backend_key(backend: str, *parts: str) -> Key:
    """Where something about a provider is that all hosts share."""
    return key("host", _SPACE, backend, *parts)


async def circuits(store: StateStore) -> dict[str, ToldCircuit]:
    """The circuits of all providers that anything was ever wrong with, by name. Raises StateUnavailable."""
    found: dict[str, ToldCircuit] = {}
    after: str | None = None
    while True:
        page = await store.list(prefix("host", _SPACE), after=after, limit=_PAGE)
        for entry in page.entries:
            _, _, backend, *parts = key_parts(entry.key)
            if parts == [CIRCUIT]:
                try:
                    found[backend] = ToldCircuit.model_validate_json(entry.value)
                except ValidationError:
                    continue  # of another release, which tells it itself
        if (after := page.next) is None:
            return found
