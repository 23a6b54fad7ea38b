"""What was spent: counters per day, agent and model in the state store, each call counted once.

A call is counted in one transaction with the mark that it was, under its id, so that copies of its message and repeated
deliveries change nothing. Counters are spread over a few rows, so that calls that end together seldom meet.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, final

from pydantic import BaseModel, ConfigDict

from rockbot.events.models import LlmResponse
from rockbot.state.keys import Key, Prefix, key, key_parts, prefix
from rockbot.state.ports import Commit, StateStore, VersionConflict, Write

__all__ = ["Spending", "Spent", "SpentCall", "summed"]

_SPACE: Final = "spent"
#: Rows that one counter is spread over.
_ROWS: Final = 4
#: Seconds that the id of a counted call is remembered: longer than any copy of its message is under way.
_REMEMBER: Final = 7 * 86_400.0
#: Seconds that counters are kept.
_KEEP: Final = 400 * 86_400.0
_TRIES: Final = 50
_PAGE: Final = 500


@final
@dataclass(frozen=True, slots=True)
class SpentCall:
    """One finished call. `model` is the one that answered, `day` when it did (UTC)."""

    call_id: str
    tenant: str
    agent: str
    model: str
    day: datetime.date
    response: LlmResponse


@final
class Spent(BaseModel):
    """What calls took together. `cost` is that of the calls whose price is known; `unpriced` is how many others there were."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    day: str = ""
    tenant: str = ""
    agent: str = ""
    model: str = ""
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0

    def plus(self, other: Spent) -> Spent:
        """Both together, under this one's names."""
        return self.model_copy(
            update={name: round(getattr(self, name) + getattr(other, name), 10) for name in _COUNTED}
        )


_COUNTED: Final = (
    "calls", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost", "unpriced",
)  # fmt: skip


def summed(rows: Iterable[Spent], by: Sequence[str]) -> list[Spent]:
    """The sums of rows that have these of day, tenant, agent and model in common, in their order."""
    found: dict[tuple[str, ...], Spent] = {}
    for row in rows:
        names = {name: getattr(row, name) for name in by}
        before = found.get(tuple(names.values()), Spent(**names))
        found[tuple(names.values())] = before.plus(row)
    return [found[names] for names in sorted(found)]


@final
class Spending:
    """The counters of one store."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._jitter = random.Random()  # noqa: S311 - spreads retries, no secret

    async def note(self, call: SpentCall) -> None:
        """Count a call, unless it was counted before.

        Raises:
            StateUnavailable: nothing was counted. VersionConflict: others kept writing first; nothing was counted.
        """
        mark = key(call.tenant, "spent-call", call.call_id)
        row = str(zlib.crc32(call.call_id.encode()) % _ROWS)
        at = key(call.tenant, _SPACE, call.day.isoformat(), call.agent or "-", call.model or "-", row)
        for attempt in range(_TRIES):
            entry = await self._store.get(at)
            before = Spent() if entry is None else Spent.model_validate_json(entry.value)
            value = before.plus(_of(call)).model_dump_json(exclude_defaults=True).encode()
            write = Write(key=at, value=value, expect=0 if entry is None else entry.version, ttl=_KEEP)
            try:
                await self._store.commit(Commit(mark=mark, remember=_REMEMBER, cause=call.call_id, writes=(write,)))
            except VersionConflict:
                if await self._store.get(mark) is not None:
                    return
                if attempt + 1 == _TRIES:
                    raise
                await asyncio.sleep(self._jitter.uniform(0, 0.002 * (attempt + 1)))
                continue
            return

    async def rows(self, tenant: str, *, since: datetime.date, until: datetime.date) -> list[Spent]:
        """Everything spent on the days of `since` to `until`, both included, per day, agent and model."""
        found: list[Spent] = []
        day = since
        while day <= until:
            found += await self._of_day(tenant, prefix(tenant, _SPACE, day.isoformat()))
            day += datetime.timedelta(days=1)
        return summed(found, ("day", "tenant", "agent", "model"))

    async def _of_day(self, tenant: str, where: Prefix) -> list[Spent]:
        found: list[Spent] = []
        after: str | None = None
        while True:
            page = await self._store.list(where, after=after, limit=_PAGE)
            found += [_named(entry.key, tenant, Spent.model_validate_json(entry.value)) for entry in page.entries]
            if page.next is None:
                return found
            after = page.next


def _of(call: SpentCall) -> Spent:
    usage, cost = call.response.usage, call.response.cost
    return Spent(
        calls=1,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cost=cost or 0.0,
        unpriced=0 if cost is not None else 1,
    )


def _named(at: Key, tenant: str, spent: Spent) -> Spent:
    _, _, day, agent, model, _ = key_parts(at)
    return spent.model_copy(update={"day": day, "tenant": tenant, "agent": agent, "model": model})
