"""How full a model's context window may become, and where a transcript may be cut to make room.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from rockbot.events.content import Message
from rockbot.machines.agent_snapshot import AgentSnapshot
from rockbot.machines.transcript_rules import may_cut
from rockbot.tokens import estimate_messages

__all__ = ["cut_at", "window_share"]


def window_share(agent: AgentSnapshot) -> int:
    """Tokens of a request from which on it is too full: the agent's share of the window, with room for a reply."""
    share = int(agent.context_window * agent.compact_at)
    room = agent.context_window - agent.max_output_tokens
    return min(share, max(room, agent.context_window // 2))


def cut_at(tail: Sequence[Message], keep: int, most: float) -> int:
    """Where the part of a tail begins that is kept as it is: `keep` messages of `most` estimated tokens, at most.

    No call is parted from its result; rather less is kept.
    """
    at, kept = len(tail), 0
    while at and len(tail) - at < keep and kept + (tokens := estimate_messages(tail[at - 1 : at])) <= most:
        at -= 1
        kept += tokens
    while at < len(tail) and not may_cut(tail, at):
        at += 1
    return at
