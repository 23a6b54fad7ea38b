"""The drawn states and ways are those that the machine takes: none is missing, none is invented."""

from __future__ import annotations

import random
from typing import get_args

from machines.stage import Play, agent, calls
from machines.test_turn_properties import TOOLS, move

from rockbot.events import LlmRequest
from rockbot.machines.turn_graph import ENDS, MEANINGS, STATES, WAYS, Way, mermaid, text
from rockbot.machines.turn_state import StateName

KINDS = (
    "ask", "short", "answer", "answer", "answer", "tools", "tools", "tools", "again", "stall", "stall", "expire", "expire",
    "fire", "late", "wait", "refuse", "full", "steer", "interrupt", "cancel", "decide", "decide", "decide", "forbid", "forbid",
    "shrink",
)  # fmt: skip


#: Together they meet everything. When the machine changes, `WAYS - taken` says what other ones have to meet.
SEEDS = (0, 3, 10, 11, 32, 40, 45, 70, 76, 139, 153, 160, 303, 424, 501, 1040)


def explore(seed: int) -> set[Way]:
    """The ways of one conversation in which everything happens at random."""
    dice = random.Random(seed)
    limits = {"max_seconds": 3600.0, "approval_seconds": 600.0} if seed % 2 else {}
    window = {} if seed % 3 else {"context_window": 1000, "compact_at": 0.15, "keep_recent": dice.randrange(5)}
    play = Play(agent(*TOOLS, max_model_calls=dice.choice([3, 6]), max_waiting=3, **limits, **window))
    timers: list[object] = []
    for _ in range(60):
        kind = dice.choice(KINDS)
        models = [call for call, command in play.open.items() if isinstance(command.event, LlmRequest)]
        if kind == "tools" and models:
            play.take(calls(*dice.choices([*TOOLS, "fly"], k=dice.choice([1, 1, 2, 3]))), call=models[0])
        elif kind == "shrink":
            play.limit = dice.choice([None, None, None, 1200])  # whoever started the host anew has lowered it
        else:
            move(play, kind, dice.randrange(8), timers)
        timers.extend(play.last.timers if play.last else ())
    return play.ways


def grow_too_large() -> set[Way]:
    """A call that was approved does not fit into a message any more."""
    play = Play(agent("pay"))
    play.ask()
    play.answer(calls("pay"))
    play.limit = 1200
    play.decide("approve", arguments={"text": "x" * 2000})
    return play.ways


def deny_beside_a_question() -> set[Way]:
    """Of an approval and a question the approval is decided first."""
    play = Play(agent("pay", "ask_user"))
    play.ask()
    play.answer(calls("pay", "ask_user"))
    play.decide("deny", approval=play.asked[0].approval_id)
    return play.ways


def test_every_way_that_is_drawn_is_taken_and_no_other() -> None:
    taken = (grow_too_large() | deny_beside_a_question()).union(*map(explore, SEEDS))
    assert (taken - WAYS, WAYS - taken) == (set(), set())


def test_every_state_can_be_reached_and_every_one_but_the_ends_be_left() -> None:
    assert set(STATES) == set(get_args(StateName))
    assert {way.after for way in WAYS} == set(STATES)
    assert {way.before for way in WAYS} - {""} == set(STATES) - ENDS
    assert {way.record for way in WAYS} <= set(MEANINGS)
    for state in set(STATES) - ENDS:  # cancelling works everywhere
        assert Way(state, "turn_ended", "canceled") in WAYS


def test_the_graph_is_drawn_with_every_way() -> None:
    drawn = text()
    assert all(f"{state}: " in drawn for state in STATES)
    assert drawn.count("->") == sum(way.before != "" for way in WAYS)
    diagram = mermaid()
    assert diagram.startswith("stateDiagram-v2\n    [*] --> received: task_accepted")
    assert all(f"    {end} --> [*]" in diagram for end in ENDS)
