"""A step costs the same at any length of its conversation: by bytes, which no busy machine can change."""

from __future__ import annotations

from machines.long_talk import STREAM, Cost, LongTalk
from machines.stage import CONVERSATION

from rockbot.machines.engine import SNAPSHOT_EVERY
from rockbot.machines.segments import TAIL_BYTES
from rockbot.machines.transcript import Transcripts, read_segments
from rockbot.machines.transcript_rules import transcript_problems
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.testing import FakeClock

STEPS = 1000


async def test_step_one_thousand_publishes_stores_and_reads_as_much_as_step_ten() -> None:
    clock = FakeClock()
    store = MemoryStateStore(clock)
    await store.open()
    talk = LongTalk(store, clock, text="x" * 300)
    await talk.begin()
    costs = [await talk.step() for _ in range(STEPS)]
    # The tail grows and is sealed in turns: compare whole rounds of that, and their most expensive steps.
    early, late = costs[10:210], costs[STEPS - 200 :]
    for name in Cost.__slots__:
        first, last = ([getattr(cost, name) for cost in part] for part in (early, late))
        assert sum(last) <= 1.05 * sum(first), name
        assert max(last) <= 1.05 * max(first), name
    assert max(cost.published for cost in costs) < 1.5 * TAIL_BYTES
    loaded = await store.load(STREAM)
    assert len(loaded.records) < SNAPSHOT_EVERY + 3

    state, version = await talk.engine.state(STREAM)
    assert version > 4 * STEPS
    whole = await Transcripts(store).whole(await talk.request(), tenant="default", conversation_id=CONVERSATION)
    assert len(whole.messages) == 1 + 2 * STEPS
    assert not transcript_problems(whole.messages, alternating=True)
    read = read_segments(store, tenant="default", conversation_id=CONVERSATION, head=state.sealed)
    told = [message async for segment in read for message in segment.messages]
    assert (*told, *state.messages) == whole.messages
