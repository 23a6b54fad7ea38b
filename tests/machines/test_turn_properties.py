"""Whatever comes, in whatever order: one end per task, nothing sent twice, nothing stuck."""

from __future__ import annotations

from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st
from machines.stage import Play, agent, calls, result, says

from rockbot.events import AgentTask, DecisionKind, LlmRequest
from rockbot.machines.turn_graph import WAYS

MOVES = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "ask",
                "short",
                "answer",
                "answer",
                "answer",
                "tools",
                "again",
                "stall",
                "expire",
                "fire",
                "late",
                "wait",
                "refuse",
                "full",
                "steer",
                "interrupt",
                "cancel",
                "decide",
                "decide",
                "forbid",
            ]
        ),
        st.integers(0, 7),
    ),
    max_size=40,
)


TOOLS = ("add", "look", "pay", "slow", "frail", "ask_user")


def pick(items: list[str], number: int) -> str | None:
    return items[number % len(items)] if items else None


def move(play: Play, kind: str, number: int, timers: list[object]) -> None:
    stalled = [call.id for call in play.state.turn.stalled] if play.state.turn else []
    waiting = [*play.open, *stalled]
    call = pick(waiting, number)
    known = pick(list(play.sent), number)
    match kind:
        case "ask":
            play.ask(f"q{number}")
        case "steer" | "interrupt":
            play.take(AgentTask(input=f"q{number}", mode=kind), id=f"{kind}{len(play.records)}")
        case "cancel":
            tasks = [response.task_id for response in play.responses]
            turn = play.state.turn
            if turn is not None:
                tasks += [turn.task.id, *(each.task.id for each in turn.joined)]
            if task := pick([*tasks, *(each.id for each in play.state.waiting)], number):
                play.cancel(task)
        case "decide":
            known_asks = [*play.approvals, *(request.approval_id for request in play.asked)]
            if approval := pick(known_asks, number):
                decision: DecisionKind = ("approve", "deny", "answer")[number % 3]
                edited = {"at": 99} if number % 2 else None
                play.decide(decision, approval=approval, arguments=edited, always=number == 6, text="because")
        case "forbid" if call:
            play.refuse(call, code="approval_required" if number % 2 else "limit")
        case "short":
            play.ask("in a hurry", deadline_ms=play.clock.now_ms() + (number - 1) * 1000)
        case "answer" | "refuse" | "full" if call:
            is_model = isinstance(play.sent[call].event, LlmRequest)
            stops = {"refuse": "refusal", "full": "context_window"}
            reply = says("x", stop_reason=stops[kind]) if kind in stops else says(f"a{number}")
            play.take(reply if is_model else result(str(number)), call=call)
        case "tools" if call and isinstance(play.sent[call].event, LlmRequest):
            names = ["add", "pay", "ask_user", "slow", "frail", "fly", "look"]
            play.take(calls(*(names[(number + at) % 7] for at in range(number % 4 + 1))), call=call)
        case "again" if known:
            play.take(says("copy") if number % 2 else result("copy"), call=known)
        case "stall" if call:
            play.stall(call)
        case "expire" if known:
            play.expire(known)
        case "fire" if play.timers:
            play.fire()
        case "late" if timers:
            play.fire(timers[number % len(timers)])  # type: ignore[arg-type]
        case "wait":
            play.clock.advance(number * 10)


@settings(max_examples=150, deadline=None)
@given(MOVES)
def test_any_interleaving_gives_each_task_exactly_one_end(moves: list[tuple[str, int]]) -> None:
    tell(Play(agent(*TOOLS, max_model_calls=4, max_waiting=3, max_seconds=3600.0, approval_seconds=600.0)), moves)


@settings(max_examples=80, deadline=None)
@given(MOVES, st.integers(0, 4))
def test_a_transcript_that_is_summarised_all_the_time_changes_nothing_of_that(
    moves: list[tuple[str, int]], keep: int
) -> None:
    cramped = agent(*TOOLS, max_model_calls=4, context_window=1000, compact_at=0.15, keep_recent=keep)
    play = Play(cramped)
    tell(play, moves)
    note(f"{sum(request.role == 'memory' for request in play.requests)} summaries")


def tell(play: Play, moves: list[tuple[str, int]]) -> None:
    """Play the moves, then let time pass until everything has ended."""
    asked: list[str] = []
    timers: list[object] = []
    for kind, number in moves:
        before = len(play.records)
        move(play, kind, number, timers)
        timers.extend(play.last.timers if play.last and len(play.records) > before else ())
        play.check()
    asked = [record.task.id for record in map(play.machine.load_record, play.records) if record.kind == "task_accepted"]
    # Whatever is left ends by its timers alone.
    for _ in range(20 * len(asked) + 1):
        if not play.timers:
            break
        play.fire()
        play.check()
    assert play.state.turn is None
    assert not play.state.waiting
    assert not play.open
    assert sorted(response.task_id for response in play.responses) == sorted(asked)
    assert play.state.ended == len(asked)
    assert play.ways <= WAYS, play.ways - WAYS
    note(f"{len(asked)} tasks")
