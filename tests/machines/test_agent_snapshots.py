"""A turn keeps the agent it began with; journals name it by the digest of its content."""

from __future__ import annotations

import json

import pytest

from rockbot.events import AgentTask
from rockbot.machines.agent_snapshot import AgentSnapshot, SnapshotNeeded, StoredSnapshot
from rockbot.machines.turn import TurnMachine
from rockbot.machines.turn_state import Conversation, Task
from rockbot.state.keys import AGENT_SNAPSHOTS, AGENT_USES, agent_snapshot_key
from tests.machines.stage import CONVERSATION, TIMEOUT, Play, agent, calls, result, says


def changed(snapshot: AgentSnapshot, **fields: object) -> AgentSnapshot:
    return AgentSnapshot.model_validate({**snapshot.model_dump(), **fields})


def test_the_digest_is_that_of_the_content() -> None:
    assert agent("add").digest == agent("add").digest
    assert agent("add").digest != agent("look").digest
    assert changed(agent("add"), instructions="Be long.").digest != agent("add").digest


def test_records_and_states_name_the_snapshot_and_do_not_repeat_it() -> None:
    play = Play(agent("add"))
    play.take(AgentTask(input="hello"))
    accepted = json.loads(play.records[0])
    assert accepted["task"]["agent"] == {"name": "assistant", "snapshot": agent("add").digest}
    assert b"Be brief." not in b"".join(play.records) + play.machine.dump_state(play.state)


def test_the_first_task_stores_the_snapshot_and_its_use_and_the_end_takes_the_use_away() -> None:
    play = Play(agent("add"))
    rows = {row.key: row.value for row in play.take(AgentTask(input="hello")).index}
    stored = StoredSnapshot.parse(rows[agent_snapshot_key(agent("add").digest)] or b"")
    assert stored is not None and stored.agent == agent("add")
    (use,) = [at for at in rows if at.startswith(AGENT_USES)]
    rows = {row.key: row.value for row in play.take(says("hi"), call=next(iter(play.open))).index}
    assert rows[use] is None


def test_a_task_whose_snapshot_is_known_to_be_stored_does_not_write_it_again() -> None:
    play = Play(agent("add"))
    play.machine = TurnMachine(CONVERSATION, agent("add"), default_timeout=TIMEOUT, stored=True)
    rows = [row.key for row in play.take(AgentTask(input="hello")).index]
    assert not [at for at in rows if at.startswith(AGENT_SNAPSHOTS)]
    assert [at for at in rows if at.startswith(AGENT_USES)]


def test_a_turn_goes_on_with_the_agent_it_began_with() -> None:
    old, new = agent("add"), changed(agent("add"), instructions="Be long.", model="scripted/other")
    play = Play(old)
    play.take(AgentTask(input="hello"))
    play.machine = TurnMachine(CONVERSATION, new, default_timeout=TIMEOUT, known={old.digest: old})
    play.take(calls("add"), call=next(iter(play.open)))
    play.take(AgentTask(input="and you?"))
    (tool,) = play.open
    play.take(result("3"), call=tool)
    ((request_id, request),) = play.open.items()
    assert (request.event.model, request.event.system) == ("scripted/demo", "Be brief.")  # type: ignore[attr-defined]
    play.take(says("done"), call=request_id)
    (request,) = play.open.values()
    assert (request.event.model, request.event.system) == ("scripted/other", "Be long.")  # type: ignore[attr-defined]


def test_a_snapshot_that_is_missing_is_asked_for_and_nothing_is_decided() -> None:
    old, new = agent("add"), agent("look")
    play = Play(old)
    play.take(AgentTask(input="hello"))
    before = play.state
    play.machine = TurnMachine(CONVERSATION, new, default_timeout=TIMEOUT)
    with pytest.raises(SnapshotNeeded) as raised:
        play.take(calls("add"), call=next(iter(play.open)))
    assert raised.value.ref == old.ref
    assert play.state == before


def test_a_task_of_an_older_release_brings_its_whole_snapshot() -> None:
    whole = agent("add")
    task = {"id": "t", "agent": whole.model_dump(mode="json"), "parts": [], "deadline_ms": 9, "allowed_ms": 9}
    state = Conversation.model_validate_json(json.dumps({"waiting": [task]}))
    assert state.waiting == (Task(id="t", agent=whole, parts=(), deadline_ms=9, allowed_ms=9),)
    machine = TurnMachine(CONVERSATION, agent("look"), default_timeout=TIMEOUT)
    assert machine.load_state(machine.dump_state(state)) == state
