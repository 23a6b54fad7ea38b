"""The store of one process."""

from __future__ import annotations

import pytest

from rockbot.state.contract import LedgerContract, LedgersUnderTest, StateStoreContract, StoresUnderTest
from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore


class TestMemoryStateStore(StateStoreContract):
    @pytest.fixture
    async def stores(self, clock, advance):
        store = MemoryStateStore(clock)

        async def open_():
            await store.open()
            return store

        return StoresUnderTest(open=open_, advance=advance, shared=False, durable=False)


class TestLedgerInMemory(LedgerContract):
    @pytest.fixture
    async def ledgers(self, clock, advance):
        store = MemoryStateStore(clock)
        await store.open()
        ledger = StateLedger(store, retention_seconds=3600)
        return LedgersUnderTest(first=ledger, second=ledger, advance=advance, retention=3600)
