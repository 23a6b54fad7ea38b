"""What the conformance suite cannot ask of a ledger: entries nobody of ours wrote, and how they are kept."""

from __future__ import annotations

import pytest

from rockbot.state.keys import call_key
from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateError
from rockbot_messaging.ledger import Begun, Finished


@pytest.fixture
async def store(clock):
    store = MemoryStateStore(clock)
    await store.open()
    return store


@pytest.mark.parametrize("value", [b"", b"not json\n", b"[]\n", b"{}\n", b"\xff\xfe\n"])
async def test_an_entry_that_cannot_be_read_is_an_error_that_names_it(store, value):
    await store.put(call_key("acme", "call"), value)
    with pytest.raises(StateError, match="ledger entry acme/call/call cannot be read"):
        await StateLedger(store).begin("call", tenant="acme", owner="a", claim_seconds=1)


async def test_fields_of_a_newer_release_are_ignored(store):
    await store.put(call_key("acme", "call"), b'{"state":"finished","colour":"red"}\nresult')
    assert await StateLedger(store).begin("call", tenant="acme", owner="a", claim_seconds=1) == Finished(b"result")


async def test_results_are_kept_for_a_week_unless_told_otherwise(store, clock):
    ledger = StateLedger(store)
    await ledger.finish("call", tenant="acme", result=b"x")
    clock.advance(7 * 24 * 3600 - 1)
    assert await ledger.begin("call", tenant="acme", owner="a", claim_seconds=1) == Finished(b"x")
    clock.advance(1)
    assert await ledger.begin("call", tenant="acme", owner="a", claim_seconds=1) == Begun(1)


async def test_a_claim_is_kept_for_as_long_as_it_lasts(store, clock):
    ledger = StateLedger(store, retention_seconds=10)
    await ledger.begin("call", tenant="acme", owner="a", claim_seconds=100)
    clock.advance(99)
    assert await ledger.begin("call", tenant="acme", owner="a", claim_seconds=100) == Begun(2)
