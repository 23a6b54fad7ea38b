"""The result ledger: what keeps a finished call from being made twice.

A broker delivers at least once, so every worker whose work costs money or has effects writes down, per call id, that it
began and what came out. A delivery of a finished call is answered from the ledger. A delivery of a call that began and
has no end is the interesting one: the worker decides by the nature of the call whether it may be made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

__all__ = ["Begun", "Busy", "Finished", "Refused", "ResultLedger", "Start"]


@final
@dataclass(frozen=True, slots=True)
class Begun:
    """The call is yours. `starts` counts the times it was begun, this one included: above 1 an earlier end is unknown."""

    starts: int


@final
@dataclass(frozen=True, slots=True)
class Busy:
    """Another worker is at it, and its claim lasts for `seconds` more."""

    seconds: float


@final
@dataclass(frozen=True, slots=True)
class Finished:
    """It is done; this is the result."""

    result: bytes


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """It must not be made any more (cancelled)."""

    reason: str


Start = Begun | Busy | Finished | Refused


class ResultLedger(Protocol):
    """Durable as its provider is; one entry per (tenant, call id), kept for the provider's retention time."""

    async def begin(
        self, call_id: str, *, tenant: str, owner: str, claim_seconds: float, under: Sequence[str] = ()
    ) -> Start:
        """Claim a call for `owner` for so long; the same owner may begin again at any time, which counts as a start.

        A finished or refused call is never claimed again, nor is one that belongs to something refused (`under`: its root
        task, what caused it). A claim that ran out may be taken by anybody.
        """
        ...

    async def renew(
        self, call_id: str, *, tenant: str, owner: str, claim_seconds: float, under: Sequence[str] = ()
    ) -> Start:
        """Prolong a claim while the work runs; the call does not count as begun once more.

        Anything but `Begun` says that the claim is lost: finished by somebody else, refused (also by one of `under`), or taken
        after it ran out.
        """
        ...

    async def finish(self, call_id: str, *, tenant: str, result: bytes) -> bytes:
        """Write down the result, before it is published. Returns the result that counts: the first one written."""
        ...

    async def release(self, call_id: str, *, tenant: str, owner: str) -> None:
        """Give a claim back unfinished: the call certainly had no effect (throttled, refused by the other side)."""
        ...

    async def refusal(self, call_id: str, *, tenant: str) -> str | None:
        """The reason of a tombstone, None when there is none."""
        ...

    async def refuse(self, call_id: str, *, tenant: str, reason: str) -> None:
        """Leave a tombstone, also for what is no call but has calls under it; does nothing to a finished call."""
        ...
