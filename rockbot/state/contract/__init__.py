"""The conformance suite of state stores: what passes it may be used wherever a `StateStore` is asked for.

Use it from a test module of yours, with pytest and pytest-asyncio in auto mode; ask pytest to rewrite its assertions
(`pytest.register_assert_rewrite("rockbot.state.contract")`) and say how your store is made:

    class TestMyStore(StateStoreContract):
        @pytest.fixture
        async def stores(self):
            async with ... as maker:
                yield StoresUnderTest(open=..., advance=..., shared=True, durable=True)
"""

from __future__ import annotations

from rockbot.state.contract.amounts import AmountCases
from rockbot.state.contract.commits import CommitCases
from rockbot.state.contract.leases import LeaseCases
from rockbot.state.contract.ledgers import LedgerContract, LedgersUnderTest
from rockbot.state.contract.outboxes import OutboxCases
from rockbot.state.contract.stores import StoresUnderTest
from rockbot.state.contract.streams import StreamCases
from rockbot.state.contract.timers import TimerCases
from rockbot.state.contract.values import ValueCases
from rockbot.state.contract.wholes import WholeCases

__all__ = ["LedgerContract", "LedgersUnderTest", "StateStoreContract", "StoresUnderTest"]


class StateStoreContract(
    ValueCases, CommitCases, StreamCases, OutboxCases, TimerCases, LeaseCases, AmountCases, WholeCases
):
    """Every case; a subclass gives the fixture `stores`, a fresh `StoresUnderTest` without data."""
