"""How the conformance suite gets at the stores it tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import final

import pytest

from rockbot.state.keys import Key
from rockbot.state.ports import Append, OutboxRow, StateStore

__all__ = ["StoreCases", "StoresUnderTest", "command", "step"]


@final
@dataclass(frozen=True, slots=True)
class StoresUnderTest:
    """One set of data and the ways to it.

    `open` opens one more instance on the same data (when the store is not `shared`: the same instance again, or one with
    data of its own), which the suite closes. `advance` moves the stores' clock forward by seconds. `shared` says that
    several instances may use the data at once, `durable` that it is there again after the last of them was closed.
    """

    open: Callable[[], Awaitable[StateStore]]
    advance: Callable[[float], Awaitable[None]]
    shared: bool
    durable: bool


class StoreCases:
    """The fixtures all cases use: one open store, and a second one on the same data (or the first again)."""

    @pytest.fixture
    async def store(self, stores: StoresUnderTest) -> AsyncIterator[StateStore]:
        store = await stores.open()
        yield store
        await store.close()

    @pytest.fixture
    async def other(self, stores: StoresUnderTest, store: StateStore) -> AsyncIterator[StateStore]:
        other = await stores.open() if stores.shared else store
        yield other
        await other.close()


def step(
    stream: Key,
    version: int,
    handled: str,
    *records: bytes,
    outbox: tuple[OutboxRow, ...] = (),
    answered: tuple[str, ...] = (),
) -> Append:
    """A step with one record, unless told otherwise."""
    return Append(
        stream=stream,
        expected_version=version,
        records=records or (b"{}",),
        handled=handled,
        outbox=outbox,
        answered=answered,
    )


def command(id: str, cause: str, *, awaits_answer: bool = True) -> OutboxRow:
    """An outbox row with something in every field."""
    return OutboxRow(
        id=id, cause=cause, message=b"message " + id.encode(), door="commands", address=id, awaits_answer=awaits_answer
    )
