"""A conversation that becomes too long for its model is summarised, once, and goes on."""

from __future__ import annotations

from typing import Any

import pytest
from machines.stage import CONVERSATION, TIMEOUT, Play, agent, calls, result, says

from rockbot.context import Context
from rockbot.events import AgentTask, ImagePart, LlmRequest, LlmResponse, Message, TextPart, ToolResultPart, Usage
from rockbot.machines.engine import Engine
from rockbot.machines.segments import TAIL_BYTES
from rockbot.machines.transcript_rules import transcript_problems
from rockbot.machines.turn import TurnMachine, return_token
from rockbot.machines.turn_messages import SUMMARISE
from rockbot.machines.turn_records import RECORDS, AnswerIgnored
from rockbot.machines.turn_state import AwaitingModel, Compacting, Conversation
from rockbot.machines.turn_window import window_share
from rockbot.state.keys import conversation_key
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import Append
from rockbot.tokens import estimate_messages
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.testing import FakeClock


def cramped(**fields: Any) -> Play:
    """Room for 1,000 tokens before a summary is asked for."""
    given = {"context_window": 2000, "compact_at": 0.5, "keep_recent": 2, "max_model_calls": 50} | fields
    return Play(agent("add", "look", **given))


def texts(play: Play, request: LlmRequest) -> list[str]:
    return [message.text for message in play.shown(request)]


def talk(play: Play, *said: str) -> None:
    for text in said:
        play.ask(text)
        play.answer(says(f"{text} indeed"))


def test_before_a_request_fills_the_window_the_older_part_is_summarised() -> None:
    play = cramped()
    one, two = "one" * 330, "two" * 330
    talk(play, one, two)
    play.ask("three")
    memory = play.requests[-1]
    assert memory.role == "memory"
    assert play.kinds()[-1] == "compaction_began"
    assert play.statuses[-1] == ("compacting", "")
    assert texts(play, memory) == [one, f"{one} indeed", two, f"{two} indeed", SUMMARISE]
    assert memory.tools, "a transcript with calls is refused without them"
    play.answer(says("we counted", usage=Usage(input_tokens=7, output_tokens=3)))
    request = play.requests[-1]
    assert request.role == "main"
    assert texts(play, request) == ["[A summary of the conversation up to here]\nwe counted", "three"]
    assert play.state.turn is not None
    assert (play.state.turn.model_calls, play.state.turn.usage.input_tokens) == (1, 7)
    play.answer(says("done"))
    assert play.responses[-1].status == "completed"
    whole = [message.text for message in play.transcript()]
    assert whole[0] == one, "nothing is lost of what the summary stands for"
    play.check()


def test_a_long_turn_is_summarised_again_and_again_and_every_request_is_a_correct_transcript() -> None:
    play = cramped(keep_recent=4, max_model_calls=200)
    play.ask("work")
    for step in range(60):
        play.answer(calls("add", "look", text=f"step {step}"))
        play.answer(result("x" * 100), to="look")
        play.answer(result("y" * 100), to="add")
        while play.requests[-1].role == "memory" and len(play.open) == 1 and compacting(play):
            play.answer(says(f"summary at {step}"))
        assert "work" in "".join(texts(play, play.requests[-1])), "the task itself is never forgotten"
    memories = [request for request in play.requests if request.role == "memory"]
    assert len(memories) > 5
    sizes = [estimate_messages(play.shown(request)) for request in play.requests if request.role == "main"]
    assert max(sizes) <= 1000
    play.check()


def compacting(play: Play) -> bool:
    return play.state.turn is not None and isinstance(play.state.turn.phase, Compacting)


def test_a_provider_that_says_the_window_is_full_is_asked_once_more_after_a_summary() -> None:
    play = Play(agent("add", keep_recent=2))
    talk(play, "one", "two")
    play.ask("three")
    play.answer(says("cut o", stop_reason="context_window"))
    assert compacting(play)
    play.answer(says("we counted"))
    assert "cut o" not in "".join(texts(play, play.requests[-1]))
    play.answer(says("still too lo", stop_reason="context_window"))
    response = play.responses[-1]
    assert response.error
    assert (response.status, response.error.code, response.output) == ("failed", "context_window", "still too lo")
    play.check()


def test_what_the_provider_finds_too_long_is_not_sent_again_whole_for_its_summary() -> None:
    play = Play(agent("add", max_model_calls=100, context_window=1_000_000))
    play.ask("go on")
    for step in range(12):
        play.answer(calls("add", text=f"step {step} " + "x" * 10_000))
        play.answer(result("y" * 40_000), to="add")
    before = len(play.shown(play.requests[-1]))
    play.answer(says("", stop_reason="context_window"))
    memory = play.requests[-1]
    assert memory.role == "memory"
    shown = play.shown(memory)
    assert before // 3 < len(shown) < before * 2 // 3
    assert not transcript_problems(shown)
    play.answer(says("we counted"))
    assert play.shown(play.requests[-1])[0].text.startswith("[A summary")
    assert len(play.shown(play.requests[-1])) < 4
    play.check()


@pytest.mark.parametrize(
    "no_summary", [says(""), says("no", stop_reason="refusal"), says("x", stop_reason="context_window")]
)
def test_without_a_summary_the_model_is_asked_with_everything_unless_that_was_too_much(no_summary: LlmResponse) -> None:
    play = cramped()
    talk(play, "one" * 330, "two" * 330)
    play.ask("three")
    play.answer(no_summary)
    assert play.kinds() == ["compaction_failed"]
    assert texts(play, play.requests[-1])[0] == "one" * 330
    play.answer(says("cut o", stop_reason="context_window"))
    assert play.responses[-1].error.code == "context_window", "it was tried for this call"  # type: ignore[union-attr]

    play = Play(agent(keep_recent=0))
    talk(play, "one")
    play.ask("two")
    play.answer(says("", stop_reason="context_window"))
    play.answer(no_summary)
    assert play.responses[-1].error.code == "context_window"  # type: ignore[union-attr]
    assert "no summary" in play.responses[-1].error.message  # type: ignore[union-attr]
    play.check()


def test_a_single_message_too_long_for_the_model_is_not_summarised() -> None:
    play = Play()
    play.ask("x" * 100)
    play.answer(says("", stop_reason="context_window"))
    assert play.responses[-1].error.code == "context_window"  # type: ignore[union-attr]
    play.check()


def test_a_summary_stalls_resumes_and_is_sent_again_like_any_call() -> None:
    play = cramped()
    talk(play, "one" * 330, "two" * 330)
    play.ask("three")
    call = play.call()
    play.stall(call)
    play.clock.advance(10 * TIMEOUT)
    play.expire(call)
    assert compacting(play)
    again = play.requests[-1]
    assert (again.role, again.messages) == ("memory", play.requests[-2].messages)
    assert not play.state.turn.stalled  # type: ignore[union-attr]
    play.answer(says("we counted"))
    play.answer(says("done"))
    assert play.responses[-1].status == "completed"
    play.check()


def test_what_was_asked_stands_beside_the_summary_when_it_is_not_among_what_is_kept() -> None:
    play = cramped(keep_recent=0)
    talk(play, "one" * 600)
    play.ask("the very question " * 40)
    play.answer(says("we counted"))
    (only,) = play.shown(play.requests[-1])
    assert [part.text for part in only.parts if isinstance(part, TextPart)][1:] == ["the very question " * 40]
    play.check()


def test_estimates_are_corrected_by_what_the_provider_counted() -> None:
    for counted, role in ((0, "main"), (2000, "memory")):
        play = cramped(context_window=8000)
        play.ask("x" * 2000)
        play.answer(says("y", usage=Usage(input_tokens=counted // 2, cache_read_tokens=counted // 2)))
        play.ask("z" * 10_000)
        assert play.requests[-1].role == role, "at four characters a token there is room"
        play.check()


def test_an_image_counts_as_what_the_model_sees_and_not_as_its_file() -> None:
    image = ImagePart(media_type="image/png", data="A" * 1_000_000)
    inside = ToolResultPart(call_id="t", parts=(image,))
    assert estimate_messages([Message(role="user", parts=(image, inside))]) < 3400


def test_the_share_of_the_window_leaves_room_for_the_reply() -> None:
    assert window_share(agent(context_window=10_000, compact_at=0.5)) == 5000
    wordy = agent(context_window=10_000, compact_at=1.0).model_copy(update={"max_output_tokens": 4000})
    assert window_share(wordy) == 6000
    assert window_share(wordy.model_copy(update={"max_output_tokens": 10_000})) == 5000


class Contended(MemoryStateStore):
    """Somebody else writes first, as often as `before` says."""

    before = 0

    async def append(self, step: Append) -> int:
        if not self.before:
            return await super().append(step)
        self.before -= 1
        other = Append(
            stream=step.stream,
            expected_version=step.expected_version,
            records=(AnswerIgnored(type="test", id="other").model_dump_json().encode(),),
            handled=f"other {self.before}",
        )
        await super().append(other)
        return await super().append(step)


async def test_a_summary_that_meets_another_writer_is_appended_again_and_asked_for_once() -> None:
    clock = FakeClock()
    store = Contended(clock)
    await store.open()
    snapshot = agent("add", context_window=2000, compact_at=0.5, keep_recent=0)
    engine = Engine(TurnMachine(CONVERSATION, snapshot, default_timeout=TIMEOUT), store)
    stream = conversation_key("default", CONVERSATION)
    requests: list[LlmRequest] = []

    async def take(event: Any, id: str, call: str = "") -> str:
        address = ReturnAddress("agent.step.assistant", return_token(CONVERSATION, call)) if call else None
        envelope = MessageEnvelope(
            topic="t", body=event.to_body(), message_id=id, type=event.type_name, return_address=address
        )
        context = Context(envelope, clock=clock, source="test")
        await engine.step(stream, event, context)
        sent = [made.envelope for made in context.emissions if made.envelope.type == LlmRequest.type_name]
        requests.extend(LlmRequest.model_validate_json(envelope.body) for envelope in sent)
        return sent[-1].message_id if sent else ""

    await take(says("x"), "r1", await take(AgentTask(input="one" * 700), "t1"))
    memory = await take(AgentTask(input="two" * 700), "t2")
    assert requests[-1].role == "memory"
    store.before = 3
    model = await take(says("we counted"), "r2", memory)
    assert [request.role for request in requests] == ["main", "memory", "main"]
    state, version = await engine.state(stream)
    assert isinstance(state, Conversation)
    assert state.turn is not None
    assert state.turn.phase == AwaitingModel(id=model)
    kinds = [RECORDS.validate_json(record.value).kind for record in await store.read(stream)]
    assert kinds.count("compacted") == 1
    assert kinds.count("answer_ignored") == 3
    assert len(kinds) == version
    assert len(requests[-1].to_body()) < TAIL_BYTES
