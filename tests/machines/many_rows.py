"""Three replicas that start together on a thousand open rows: each row is sent at most twice, and no call is made twice.

The story, for every store that can tell it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from rockbot.machines.recovery import OutboxRecovery
from rockbot.outgoing import Outgoing
from rockbot.state.keys import conversation_key
from rockbot.state.ledger import StateLedger
from rockbot.state.ports import Append, OutboxRow, StateStore
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ledger import Begun
from rockbot_messaging.packing import pack
from rockbot_messaging.ports import Door
from rockbot_messaging.testing import FakeClock

ROWS = 1000
STREAMS = 20


class Worker:
    """The broker and the worker behind it: every message is delivered at once, and its call made unless the ledger has it."""

    def __init__(self, store: StateStore, owner: str) -> None:
        self.sent: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self._ledger = StateLedger(store)
        self._owner = owner

    async def publish(self, envelope: MessageEnvelope, *, door: Door) -> None:
        call = envelope.message_id
        self.sent[call] += 1
        begun = await self._ledger.begin(call, tenant="default", owner=self._owner, claim_seconds=60)
        if isinstance(begun, Begun):
            self.made[call] += 1
            await self._ledger.finish(call, tenant="default", result=b"done")


async def three_replicas_start(stores: Sequence[StateStore], advance: Callable[[float], Awaitable[None]]) -> None:
    """`stores` are one per replica, open, on the same data; `advance` moves their clock."""
    for number in range(STREAMS):
        calls = [f"call-{number}-{at}" for at in range(ROWS // STREAMS)]
        envelopes = [
            MessageEnvelope(topic="llm.request.x.interactive", body=b"", message_id=call, type="") for call in calls
        ]
        await stores[0].append(
            Append(
                stream=conversation_key("default", str(number)),
                expected_version=0,
                records=(b"1",),
                handled="m",
                outbox=tuple(
                    OutboxRow(id=each.message_id, cause="m", message=pack(each), door="commands", awaits_answer=True)
                    for each in envelopes
                ),
            )
        )
    await advance(31)
    workers = [Worker(store, owner) for store, owner in zip(stores, "abc", strict=True)]
    replicas = [
        OutboxRecovery(store, Outgoing(worker, clock=FakeClock(), source="test"), owner=owner, idle=30)  # type: ignore[arg-type]
        for store, owner, worker in zip(stores, "abc", workers, strict=True)
    ]
    sent: Counter[str] = Counter()
    made: Counter[str] = Counter()
    published = await asyncio.gather(*(replica.run_once() for replica in replicas))
    # Nobody answers: half a minute later the rows are looked at once more.
    await advance(31)
    published += await asyncio.gather(*(replica.run_once() for replica in replicas))
    for worker in workers:
        sent += worker.sent
        made += worker.made
    assert len(sent) == ROWS
    assert max(sent.values()) <= 2
    assert set(made.values()) == {1}
    assert len(made) == ROWS
    assert sum(published) == sum(sent.values())
