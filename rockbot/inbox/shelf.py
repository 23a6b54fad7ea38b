"""Lines in the state store. Every change is one write of several values, and every change is made against the version it
was decided on; what the holder of an older grant wants to write is refused (`Lost`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Sequence
from enum import Enum
from typing import Final, final

from rockbot.inbox.line import BlockedKey, Line, LineId, lines_of
from rockbot.state.ports import StateStore, VersionConflict, Write
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Undecodable
from rockbot_messaging.packing import pack, unpack

__all__ = ["UNREADABLE", "Arrival", "Grant", "Lost", "Shelf", "Unreadable"]

#: What holds up a line in place of a letter's id when its head cannot be read.
UNREADABLE: Final = "unreadable"

#: Lines read at once.
_PAGE: Final = 200


class Lost(Exception):
    """The grant is over: somebody else works this line."""


class Unreadable(Exception):
    """The message of that number cannot be worked on."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"message {number} of this inbox cannot be read: {why}")
        self.number = number


class Arrival(Enum):
    """What became of an arriving message."""

    APPENDED = "appended"
    REPLAYED = "replayed"
    COPY = "copy"
    FULL = "full"


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """The right to work a line, until the lease is over; `deaths` owners before this one vanished."""

    id: LineId
    token: int
    deaths: int


_Change = Callable[[Line], tuple[Line, Sequence[Write]]]


@final
class Shelf:
    """The lines of one host. `lease` is for how many seconds a grant lasts unless it is prolonged."""

    def __init__(self, store: StateStore, *, owner: str, lease: float, jitter: random.Random | None = None) -> None:
        self.store = store
        self.owner = owner
        self._lease = lease
        self._jitter = jitter or random.Random()  # noqa: S311 - spreads retries, no secret

    # -- who arrives

    async def arrive(self, id: LineId, envelope: MessageEnvelope, *, most: int) -> Arrival:
        """Append a message unless its id is known or `most` messages wait; a letter that blocks its line goes to its head.

        Raises:
            StateUnavailable: nothing was stored.
        """
        arrival = id.arrival(envelope.message_id)
        message = pack(envelope.replace(redelivered=False, returns=0, due_ms=None))
        while True:
            if await self.store.get(arrival) is not None:
                return Arrival.COPY
            line, version = await self._read(id)
            if line.blocked == envelope.message_id:
                number, changed, what = line.head, line.opened(), Arrival.REPLAYED
            elif line.waiting >= most:
                return Arrival.FULL
            else:
                number, changed, what = line.next, dataclasses.replace(line, next=line.next + 1), Arrival.APPENDED
            if await self._try(
                [
                    Write(key=id.line, value=changed.dump(), expect=version),
                    Write(key=id.entry(number), value=message),
                    Write(key=arrival, value=b"waiting", expect=0),
                ]
            ):
                return what

    # -- who works

    async def take(self, id: LineId) -> Grant | float:
        """The right to work a line, or in how many seconds its head is due (`inf`: nothing to do, or not for us)."""
        while True:
            line, version = await self._read(id)
            now_ms = await self.store.now_ms()
            if not line.may_begin(self.owner, now_ms):
                return line.due_in(now_ms)
            vanished = line.owner not in ("", self.owner)
            # Versions only grow, also when a line is gone and comes again; so do tokens.
            granted = dataclasses.replace(
                line,
                owner=self.owner,
                until_ms=now_ms + round(self._lease * 1000),
                token=version,
                deaths=line.deaths + vanished,
            )
            if await self._try([Write(key=id.line, value=granted.dump(), expect=version)]):
                return Grant(id, version, granted.deaths)

    async def head(self, grant: Grant) -> tuple[int, MessageEnvelope] | None:
        """The number and the message to work on, None when there is none.

        Raises:
            Lost: the grant is over. Unreadable: the message cannot be read, or is not there. StateUnavailable: try again.
        """
        line, _ = await self._read(grant.id)
        self._check(grant, line)
        if not line.waiting:
            return None
        entry = await self.store.get(grant.id.entry(line.head))
        if entry is None:
            raise Unreadable(line.head, "it is not in the store")
        try:
            return line.head, unpack(entry.value)
        except Undecodable as exc:
            raise Unreadable(line.head, str(exc)) from exc

    async def prolong(self, grant: Grant) -> None:
        """Make the grant last as long as when it began."""
        until_ms = await self._until_ms()
        await self._change(grant, lambda line: (dataclasses.replace(line, until_ms=until_ms), ()))

    async def done(self, grant: Grant, number: int, message_id: str, *, remember: float) -> bool:
        """The message was handled; its id is remembered for `remember` seconds. Whether there are more."""
        handled = Write(key=grant.id.arrival(message_id), value=b"handled", ttl=remember)
        return await self._advance(grant, number, handled)

    async def skip(self, grant: Grant, number: int, message_id: str) -> bool:
        """The message is a dead letter and the line goes on; it is new when it arrives again. Whether there are more."""
        return await self._advance(grant, number, Write(key=grant.id.arrival(message_id), value=None))

    async def postpone(self, grant: Grant, number: int, envelope: MessageEnvelope, due_ms: int) -> None:
        """The head is not begun before that instant; the grant is over."""
        entry = Write(key=grant.id.entry(number), value=pack(envelope.replace(due_ms=None)))
        await self._change(
            grant, lambda line: (dataclasses.replace(line, due_ms=due_ms, deaths=0).released(), (entry,))
        )

    async def block(self, grant: Grant, number: int, message_id: str, reason: str, *, keep: bool = False) -> None:
        """The message is a dead letter, and the line waits for it; the grant is over. `keep` leaves the message here too."""
        since_ms = await self.store.now_ms()
        gone = [Write(key=grant.id.arrival(message_id), value=None)]
        if not keep:
            gone.append(Write(key=grant.id.entry(number), value=None))

        def block(line: Line) -> tuple[Line, Sequence[Write]]:
            return (
                dataclasses.replace(line, blocked=message_id, since_ms=since_ms, reason=reason, deaths=0).released(),
                gone,
            )

        await self._change(grant, block)

    async def release(self, grant: Grant) -> None:
        """Give the grant back early."""
        await self._change(grant, lambda line: (line.released(), ()))

    async def give_up(self, id: LineId) -> None:
        """Give back whatever grant this owner has on a line, so that others need not wait for it to end."""
        while True:
            line, version = await self._read(id)
            if line.owner != self.owner or await self._try([_kept(id, line.released(), version)]):
                return

    # -- who looks on

    async def lines(self, subscription: str) -> AsyncIterator[tuple[LineId, Line]]:
        """Every line of a subscription that has something in it."""
        after = None
        while True:
            page = await self.store.list(lines_of(subscription), after=after, limit=_PAGE)
            for entry in page.entries:
                yield LineId.of(entry.key), Line.load(entry.value)
            if page.next is None:
                return
            after = page.next

    async def blocked(self, subscription: str) -> list[BlockedKey]:
        """The lines that dead letters hold up."""
        return [
            BlockedKey(
                subscription=whose.subscription,
                tenant=whose.tenant,
                key=whose.key,
                message_id=line.blocked,
                since_ms=line.since_ms,
                reason=line.reason,
                waiting=line.waiting - 1,
            )
            async for whose, line in self.lines(subscription)
            if line.blocked
        ]

    async def unblock(self, id: LineId, *, message_id: str | None = None) -> bool:
        """Let a line go on without the letter that holds it up (if it is that one); whether it was held up.

        A head that could not be read, and now can (another release wrote it), is not dropped but handled.
        """
        while True:
            line, version = await self._read(id)
            if not line.blocked or message_id not in (None, line.blocked):
                return False
            if line.blocked == UNREADABLE and await self._readable(id, line):
                if await self._try([_kept(id, line.opened(), version)]):
                    return True
                continue
            after = line.opened().advanced()
            if await self._try([_kept(id, after, version), Write(key=id.entry(line.head), value=None)]):
                return True

    async def _readable(self, id: LineId, line: Line) -> bool:
        entry = await self.store.get(id.entry(line.head))
        if entry is None:
            return False
        try:
            unpack(entry.value)
        except Undecodable:
            return False
        return True

    # -- writing

    async def _advance(self, grant: Grant, number: int, arrival: Write) -> bool:
        writes = (Write(key=grant.id.entry(number), value=None), arrival)
        until_ms = await self._until_ms()

        def advance(line: Line) -> tuple[Line, Sequence[Write]]:
            if line.head != number:
                return line, ()  # a former try was stored although it seemed to fail
            return dataclasses.replace(line.advanced(), until_ms=until_ms), writes

        return (await self._change(grant, advance)).waiting > 0

    async def _change(self, grant: Grant, change: _Change) -> Line:
        while True:
            line, version = await self._read(grant.id)
            self._check(grant, line)
            changed, writes = change(line)
            if await self._try([_kept(grant.id, changed, version), *writes]):
                return changed

    def _check(self, grant: Grant, line: Line) -> None:
        if line.owner != self.owner or line.token != grant.token:
            raise Lost(f"{grant.id.line} is worked by {line.owner or 'nobody'} now")

    async def _read(self, id: LineId) -> tuple[Line, int]:
        entry = await self.store.get(id.line)
        return (Line.load(entry.value), entry.version) if entry else (Line(), 0)

    async def _try(self, writes: Sequence[Write]) -> bool:
        """Write, unless somebody else was faster: then wait a moment."""
        try:
            await self.store.write(writes)
        except VersionConflict:
            await asyncio.sleep(self._jitter.uniform(0, 0.003))
            return False
        return True

    async def _until_ms(self) -> int:
        return await self.store.now_ms() + round(self._lease * 1000)


def _kept(id: LineId, line: Line, version: int) -> Write:
    """A line that is empty is not kept: keys come and go by the million."""
    return Write(key=id.line, value=line.dump() if line.waiting else None, expect=version)
