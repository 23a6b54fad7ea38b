"""What a process remembers of streams from one step to the next, so that the next one need not read them again.

Correct on any number of replicas: a remembered state is only where a step begins, the append with its expected version
decides. A version alone would not do, because a stream that was erased and begun anew comes to the same version again; so
whoever steps says whether the remembered state is certainly this stream's own past, by something that no other past can
have, like the id of an open call.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, final

from rockbot.state.keys import Key

__all__ = ["Known", "Memory"]

S = TypeVar("S")

_STREAMS: Final = 256


@final
@dataclass(frozen=True, slots=True)
class Known(Generic[S]):
    """A state, the version of the stream that it is of, and that of the stream's last snapshot (0: none)."""

    state: S
    version: int
    snapshot: int


@final
class Memory(Generic[S]):
    """The last states of the streams that were stepped last, `most` of them."""

    def __init__(self, most: int = _STREAMS) -> None:
        self._most = most
        self._known: OrderedDict[Key, Known[S]] = OrderedDict()

    def take(self, stream: Key) -> Known[S] | None:
        """What is remembered, and no more after that: whoever could write on it puts back what came of it."""
        return self._known.pop(stream, None)

    def put(self, stream: Key, known: Known[S]) -> None:
        """Remember what was just stored."""
        self._known[stream] = known
        if len(self._known) > self._most:
            self._known.popitem(last=False)
