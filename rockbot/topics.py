"""Every topic of the host, built here and nowhere else (the table is in `design/wire-contract.md`)."""

from __future__ import annotations

from typing import Final, Literal

from rockbot_messaging.topics import check_pattern, check_topic, escape_word

__all__ = [
    "INTERNAL",
    "LANES",
    "Lane",
    "approval_decision",
    "approval_request",
    "is_inner_type",
    "llm_delta",
    "llm_request",
    "place_of",
    "response",
    "script_invoke",
    "status",
    "step",
    "task",
    "timer_due",
    "tool_invoke",
    "toolset_result",
    "user_message",
    "user_messages",
    "user_reply",
]

Lane = Literal["interactive", "delegated", "scheduled"]

#: Lanes of model calls, the most urgent first.
LANES: Final[tuple[Lane, ...]] = ("interactive", "delegated", "scheduled")

#: What belongs to running work: commands to our workers, their results, and timers. Nobody else has to send these.
INTERNAL: Final = (
    "agent.step.#",
    "approval.#",
    "llm.request.#",
    "script.invoke.#",
    "timer.due.#",
    "tool.invoke.#",
    "tool.result.#",
)

_USER_MESSAGE: Final = "user.message."

#: Types of ours that anybody may send. Every other one belongs to running work: a type that is added is protected.
_PUBLIC_TYPES: Final = frozenset(
    {
        "rockbot.agent.task",
        "rockbot.agent.response",
        "rockbot.agent.status",
        "rockbot.control.cancel",
        "rockbot.control.reload",
    }
)


def is_inner_type(type_name: str) -> bool:
    """Whether only running work has messages of this type: what a message is handled as is its type, whatever its topic."""
    return type_name.startswith("rockbot.") and type_name not in _PUBLIC_TYPES


def task(agent: str) -> str:
    """Tasks for an agent."""
    return check_topic(f"agent.task.{agent}")


def response(agent: str) -> str:
    """Answers to tasks that named no reply queue."""
    return check_topic(f"agent.response.{agent}")


def user_message(place: str) -> str:
    """What a person writes at a `place` (``<channel>.<account>``): a task for the agent that has the channel."""
    return check_topic(f"{_USER_MESSAGE}{place}")


def user_messages(channel: str) -> str:
    """The pattern of everything that people write on a channel."""
    return check_pattern(f"{_USER_MESSAGE}{channel}.*")


def user_reply(place: str) -> str:
    """Answers to what a person wrote at a `place`."""
    return check_topic(f"user.reply.{place}")


def place_of(topic: str) -> str:
    """Where a person's message was written (``<channel>.<account>``); empty: it is none."""
    return topic.removeprefix(_USER_MESSAGE) if topic.startswith(_USER_MESSAGE) else ""


def status(agent: str) -> str:
    """What an agent tells its watchers."""
    return check_topic(f"agent.status.{agent}")


def step(agent: str) -> str:
    """Return address of an agent's commands: model replies, tool results, stalled steps."""
    return check_topic(f"agent.step.{agent}")


def approval_request(agent: str) -> str:
    """What an agent's turns ask people."""
    return check_topic(f"approval.request.{agent}")


def approval_decision(agent: str) -> str:
    """What people decided for an agent's turns."""
    return check_topic(f"approval.decision.{agent}")


def timer_due(agent: str) -> str:
    """Timers of an agent's conversations."""
    return check_topic(f"timer.due.{agent}")


def llm_request(backend: str, lane: Lane) -> str:
    """Model calls to a backend."""
    return check_topic(f"llm.request.{backend}.{lane}")


def llm_delta(conversation_id: str) -> str:
    """Text of a conversation's replies, while a model writes it."""
    return check_topic(f"llm.delta.{escape_word(conversation_id)}")


def tool_invoke(toolset: str) -> str:
    """Tool calls to a toolset's workers."""
    return check_topic(f"tool.invoke.{toolset}")


def toolset_result(toolset: str) -> str:
    """Return address of a toolset that has its own work done elsewhere."""
    return check_topic(f"tool.result.{toolset}")


def script_invoke(runtime: str) -> str:
    """Untrusted code for the script service."""
    return check_topic(f"script.invoke.{runtime}")
