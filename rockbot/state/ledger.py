"""The result ledger on top of any state store, by compare-and-set.

One value per call: a line of JSON that says how far it got, a newline, the result as it is. Entries vanish when nobody
has written to them for the retention time; until then a call that is delivered again is answered, not made.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, final

from rockbot.state.keys import Key, call_key
from rockbot.state.ports import StateError, StateStore, VersionConflict
from rockbot_messaging.ledger import Begun, Busy, Finished, Refused, Start

__all__ = ["StateLedger", "begun_under"]

#: Claims whose versions a process remembers: as many calls as it makes at a time, and then some.
_CLAIMS: Final = 1024
_WEEK_SECONDS: Final = 7 * 24 * 3600.0


def begun_under(entry: bytes) -> frozenset[str]:
    """The ids of what the call of a stored entry was begun for; none when the entry does not say so."""
    try:
        return frozenset(json.loads(entry.partition(b"\n")[0]).get("under", ()))
    except (ValueError, TypeError, AttributeError):
        return frozenset()


@final
@dataclass(frozen=True, slots=True)
class _Call:
    """`open` is a call that nobody claims at present although it was begun before with an unknown end.

    `under` are the ids of what it was begun for: by them it is found when a conversation is to be forgotten.
    """

    state: Literal["open", "claimed", "refused", "finished"]
    starts: int = 0
    owner: str = ""
    until_ms: int = 0
    reason: str = ""
    under: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class _Found:
    call: _Call
    result: bytes
    version: int


_NOTHING: Final = _Found(_Call("open"), b"", 0)


@final
class StateLedger:
    """A `ResultLedger` in `store`, as durable as that is; claims expire by the store's clock.

    `retention_seconds` is how long an entry is kept after it was last written: longer than any copy of a message can be
    under way.
    """

    def __init__(self, store: StateStore, *, retention_seconds: float = _WEEK_SECONDS) -> None:
        self._store = store
        self._retention = retention_seconds
        self._claims: OrderedDict[Key, _Found] = OrderedDict()

    async def begin(
        self, call_id: str, *, tenant: str, owner: str, claim_seconds: float, under: Sequence[str] = ()
    ) -> Start:
        """Claim a call. `starts` also counts earlier claims of the same owner, but none that were released.

        Raises:
            StateUnavailable: the store cannot say or write.
        """
        if (refused := await self._refused(tenant, under)) is not None:
            return refused
        key = call_key(tenant, call_id)
        # Nearly every call is begun for the first time: that takes one write and no reading.
        until_ms = await self._store.now_ms() + round(claim_seconds * 1000)
        first = _Call("claimed", starts=1, owner=owner, until_ms=until_ms, under=tuple(under))
        if await self._write_claim(key, first, 0, claim_seconds):
            return Begun(1)
        return await self._claim(key, owner, claim_seconds, under, renewal=False)

    async def renew(
        self, call_id: str, *, tenant: str, owner: str, claim_seconds: float, under: Sequence[str] = ()
    ) -> Start:
        """Prolong `owner`'s claim; a claim that ran out and that nobody took is prolonged too.

        Raises:
            StateUnavailable: the store cannot say or write.
        """
        refused = await self._refused(tenant, under)
        return refused or await self._claim(call_key(tenant, call_id), owner, claim_seconds, under, renewal=True)

    async def refusal(self, call_id: str, *, tenant: str) -> str | None:
        """The reason of a tombstone, None when there is none.

        Raises:
            StateUnavailable: the store cannot say.
        """
        call = (await self._find(call_key(tenant, call_id))).call
        return call.reason if call.state == "refused" else None

    async def _refused(self, tenant: str, under: Sequence[str]) -> Refused | None:
        for each in under:
            if (reason := await self.refusal(each, tenant=tenant)) is not None:
                return Refused(reason)
        return None

    async def _claim(self, key: Key, owner: str, claim_seconds: float, under: Sequence[str], *, renewal: bool) -> Start:
        while True:
            found = await self._find(key)
            call = found.call
            if call.state == "finished":
                return Finished(found.result)
            if call.state == "refused":
                return Refused(call.reason)
            now_ms = await self._store.now_ms()
            mine = call.state == "claimed" and call.owner == owner
            if renewal and not mine:
                return Busy(max(0, call.until_ms - now_ms) / 1000)
            if call.state == "claimed" and not mine and call.until_ms > now_ms:
                return Busy((call.until_ms - now_ms) / 1000)
            until_ms = now_ms + round(claim_seconds * 1000)
            starts = call.starts if renewal else call.starts + 1
            claimed = _Call("claimed", starts=starts, owner=owner, until_ms=until_ms, under=tuple(under) or call.under)
            if await self._write_claim(key, claimed, found.version, claim_seconds):
                return Begun(starts)

    async def _write_claim(self, key: Key, call: _Call, version: int, claim_seconds: float) -> bool:
        written = await self._write(key, call, version, seconds=max(self._retention, claim_seconds))
        if written:
            self._claims[key] = _Found(call, b"", written)
            if len(self._claims) > _CLAIMS:
                self._claims.popitem(last=False)
        return bool(written)

    async def finish(self, call_id: str, *, tenant: str, result: bytes) -> bytes:
        """Write the result down, also of a call that was refused meanwhile: it was made, and that is what counts."""
        key = call_key(tenant, call_id)
        while True:
            # Its own claim needs no reading: a version that has changed meanwhile is refused, and looked at then.
            found = self._claims.pop(key, None) or await self._find(key)
            if found.call.state == "finished":
                return found.result
            finished = replace(found.call, state="finished", owner="", until_ms=0)
            if await self._write(key, finished, found.version, result=result):
                return result

    async def release(self, call_id: str, *, tenant: str, owner: str) -> None:
        """Give `owner`'s claim back, as if it had never been begun; does nothing when somebody else has it."""
        key = call_key(tenant, call_id)
        self._claims.pop(key, None)
        while True:
            found = await self._find(key)
            call = found.call
            if call.state != "claimed" or call.owner != owner:
                return
            if call.starts > 1:
                if await self._write(key, _Call("open", starts=call.starts - 1, under=call.under), found.version):
                    return
                continue
            try:
                await self._store.delete(key, expect=found.version)
            except VersionConflict:
                continue
            return

    async def refuse(self, call_id: str, *, tenant: str, reason: str) -> None:
        """Leave a tombstone, also under a claim; the first reason stays."""
        key = call_key(tenant, call_id)
        while True:
            found = await self._find(key)
            if found.call.state in ("finished", "refused"):
                return
            refused = _Call("refused", starts=found.call.starts, reason=reason, under=found.call.under)
            if await self._write(key, refused, found.version):
                return

    async def _find(self, key: Key) -> _Found:
        entry = await self._store.get(key)
        if entry is None:
            return _NOTHING
        head, _, result = entry.value.partition(b"\n")
        try:
            fields = json.loads(head)
            known = {name: fields[name] for name in _Call.__slots__ if name in fields}
            known["under"] = tuple(known.get("under", ()))
            return _Found(_Call(**known), result, entry.version)
        except (ValueError, TypeError) as exc:
            raise StateError(
                f"the ledger entry {key} cannot be read: {exc}; delete it to let the call be made"
            ) from exc

    async def _write(
        self, key: Key, call: _Call, version: int, *, result: bytes = b"", seconds: float | None = None
    ) -> int:
        """The version of the written entry, 0 when somebody else wrote first."""
        fields = {name: value for name in _Call.__slots__ if (value := getattr(call, name))}
        value = json.dumps(fields, separators=(",", ":")).encode() + b"\n" + result
        try:
            return await self._store.put(key, value, expect=version, ttl=seconds or self._retention)
        except VersionConflict:
            return 0
