"""A conversation that is forgotten is nowhere in the store any more; everything else is where it was."""

from __future__ import annotations

import asyncio

import pytest
from history.stored import Talk

from rockbot.events import AgentTask
from rockbot.history import History
from rockbot.letters.index import row_key
from rockbot.processes import compose_host
from rockbot.settings import Settings
from rockbot.state.artifacts import StateArtifacts
from rockbot.state.desk.archive import item_line
from rockbot.state.desk.forgetting import forget_conversation, forget_tenant
from rockbot.state.desk.forgotten import ForgetRefused
from rockbot.state.items import KINDS, ValueItem
from rockbot.state.keys import AGENT_SNAPSHOTS, artifact_key, call_key, handled_key, key, segment_key
from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import Commit, OutboxRow
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging import MessageEnvelope
from rockbot_messaging.clock import SystemClock
from rockbot_messaging.packing import pack


async def everything(store, *, but=()):
    """Every item as text: what a search would find."""
    found = []
    for kind in KINDS:
        after = None
        while True:
            page = await store.dump(kind, after=after, limit=100)
            for item in page.items:
                if kind != "number" and not (isinstance(item, ValueItem) and item.key.startswith(but or ("\0",))):
                    texts = [
                        item_line(item),
                        getattr(item, "value", b""),
                        getattr(getattr(item, "record", None), "value", b""),
                    ]
                    found.append(b" ".join(text or b"" for text in texts))
            if (after := page.next) is None:
                break
    return found


@pytest.fixture
async def store(clock):
    store = MemoryStateStore(clock)
    await store.open()
    yield store
    await store.close()


async def test_nothing_a_host_stored_for_a_conversation_is_left(tmp_path):
    """With the real handlers: whatever they write, a search for the conversation finds nothing afterwards."""
    settings = Settings.model_validate({"state_url": f"sqlite:///{tmp_path / 'state.db'}", "model": "scripted/demo"})
    container = compose_host(settings)
    bus, host, store = container.bus(), container.host(), container.store()
    await host.start()
    try:
        for name in ("secretive", "other"):
            body = AgentTask(input=f"hello {name}-word").to_body()
            for number in (1, 2):
                await bus.publisher.publish(
                    MessageEnvelope(
                        topic="agent.task.assistant",
                        body=body,
                        message_id=f"{name}-task-{number}",
                        type="",
                        conversation_id=f"{name}-talk",
                    )
                )
        async with asyncio.timeout(60):
            for name in ("secretive", "other"):
                for number in (1, 2):
                    while (
                        row := await History(store).row("default", f"{name}-task-{number}")
                    ) is None or not row.ended:
                        await asyncio.sleep(0.01)
    finally:
        await host.close()
        await bus.close()
    store = SqliteStateStore(tmp_path / "state.db", SystemClock())
    await store.open()
    before = await everything(store)
    assert sum(b"secretive" in text for text in before) > 10
    found = await forget_conversation(store, "default", "secretive-talk")
    assert [text for text in await everything(store) if b"secretive" in text] == []
    assert [text for text in before if b"other" in text] == [
        text for text in await everything(store) if b"other" in text
    ]
    assert found.removed["stream"] == 1
    assert found.removed["ledger entry"] == 2
    assert (await forget_conversation(store, "default", "secretive-talk")).removed == {}
    await store.close()


async def _talk(store, conversation, *, tenant="default"):
    talk = Talk(store, conversation, tenant=tenant)
    await talk.task(f"{conversation}-task")
    await talk.use_tool()
    await talk.reply()
    return talk


async def test_what_names_the_conversation_only_in_its_message_goes_too(store):
    await _talk(store, "c1")
    for conversation, cause in (("c1", "a"), ("c2", "b")):
        envelope = MessageEnvelope(
            topic="job.done", body=b"x", message_id=f"out-{cause}", type="", conversation_id=conversation
        )
        row = OutboxRow(id=f"out-{cause}", cause=cause, message=pack(envelope), door="commands")
        await store.commit(Commit(mark=handled_key("default", "jobs", cause), remember=60, cause=cause, outbox=(row,)))
    found = await forget_conversation(store, "default", "c1")
    assert found.removed["row"] == 1
    assert [item.row.id for item in (await store.dump("row")).items] == ["out-b"]


async def test_results_of_calls_go_by_what_they_were_begun_for(store):
    await _talk(store, "c1")
    ledger = StateLedger(store)
    for call, under in (
        ("mine", ("c1-task",)),
        ("deep", ("other", "c1-task")),
        ("foreign", ("c2-task",)),
        ("plain", ()),
    ):
        await ledger.begin(call, tenant="default", owner="w", claim_seconds=5, under=under)
        await ledger.finish(call, tenant="default", result=b"secret")
    assert (await forget_conversation(store, "default", "c1")).removed["ledger entry"] == 2
    left = [item.key for item in (await store.dump("value")).items if "/call/" in item.key]
    assert left == [call_key("default", "foreign"), call_key("default", "plain")]


async def test_an_artifact_goes_unless_something_else_points_at_it(store):
    await _talk(store, "c1")
    artifacts = StateArtifacts(store)
    mine, shared, others = [await artifacts.put(body) for body in (b"mine", b"shared", b"others")]
    await store.put(segment_key("default", "c1", 1), f"artifact:{mine} and {shared}".encode())
    await store.put(segment_key("default", "c2", 1), f"artifact:{shared} and {others}".encode())
    found = await forget_conversation(store, "default", "c1")
    assert found.removed["artifact"] == 1
    digests = {item.key for item in (await store.dump("value")).items if "/artifact/" in item.key}
    assert digests == {artifact_key("default", each[7:71]) for each in (shared, others)}


async def test_ids_that_somebody_only_quotes_belong_to_others(store):
    talk = Talk(store, "c1")
    await talk.task("c1-task", 'look: {"id": "c2-call"} {"task": {"id": "c2-task"}}')
    await talk.reply()
    await _talk(store, "c2")
    await StateLedger(store).refuse("c2-call", tenant="default", reason="canceled")
    await forget_conversation(store, "default", "c1")
    assert await store.get(call_key("default", "c2-call")) is not None
    assert await History(store).row("default", "c2-task") is not None


async def test_a_conversation_with_an_open_task_is_forgotten_only_by_force(store):
    talk = Talk(store, "c1")
    await talk.task("t1")
    with pytest.raises(ForgetRefused, match="t1"):
        await forget_conversation(store, "default", "c1")
    assert await History(store).row("default", "t1") is not None
    await forget_conversation(store, "default", "c1", force=True)
    assert await everything(store, but=(AGENT_SNAPSHOTS,)) == []


async def test_a_process_that_dies_half_way_leaves_what_finds_the_rest(store):
    await _talk(store, "c1")
    await StateLedger(store).refuse("x", tenant="default", reason="no")
    await store.put(segment_key("default", "c1", 1), b"x")

    class Dying:
        """Its n-th change of the store is its last."""

        def __init__(self, left):
            self.left = left

        def __getattr__(self, name):
            member = getattr(store, name)
            if name not in ("erase", "write", "drop_rows"):
                return member

            async def change(*arguments):
                if self.left == 0:
                    raise ConnectionError("killed")
                self.left -= 1
                return await member(*arguments)

            return change

    died = 0
    while True:
        try:
            await forget_conversation(Dying(died), "default", "c1")
        except ConnectionError:
            died += 1
            continue
        break
    assert died > 3
    assert await everything(store, but=(AGENT_SNAPSHOTS, "default/call/")) == []


async def test_dead_letters_are_named_and_left(store):
    await _talk(store, "c1")
    for number, conversation in enumerate(("c1", "c1", "c2")):
        row = b'{"tenant": "default", "conv": "%b"}' % conversation.encode()
        await store.put(row_key("agent.assistant", number, f"l{number}"), row)
    found = await forget_conversation(store, "default", "c1")
    assert [(left.queue, left.count) for left in found.letters] == [("agent.assistant", 2)]
    assert len((await store.dump("value")).items) >= 3


async def test_a_tenant_is_forgotten_with_everything_and_others_stay(store):
    for tenant in ("acme", "other"):
        await _talk(store, "c1", tenant=tenant)
        await store.reserve(key(tenant, "budget", "day"), 1, limit=9, id=f"{tenant}-call", ttl=60)
        await store.settle(f"{tenant}-call", 1)
        await store.put(key("host", "inbox", "jobs", tenant, "k"), b"{}")
        await StateArtifacts(store).put(b"bytes", tenant=tenant)
    found = await forget_tenant(store, "acme")
    assert found.removed["amount"] == 1
    left = await everything(store)
    assert [text for text in left if b"acme" in text] == []
    assert len([text for text in left if b"other" in text]) > 8
    assert await History(store).task("other", "c1-task") is not None


async def test_a_tenant_with_an_open_task_is_refused_and_so_is_what_is_no_tenant(store):
    await Talk(store, "c1", tenant="acme").task("t1")
    with pytest.raises(ForgetRefused, match="t1"):
        await forget_tenant(store, "acme")
    await forget_tenant(store, "acme", force=True)
    for system in ("host", "@system"):
        with pytest.raises(ForgetRefused, match="no tenant"):
            await forget_tenant(store, system, force=True)
