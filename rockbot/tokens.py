"""How many tokens something takes, estimated before a call and corrected by what calls report.

Pure. A tokenizer belongs to one model of one provider; an estimate that learns from every reply belongs to none and costs
nothing. It is for decisions that have room (when to compact, whether a prompt fits), never for bills.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic_core import to_json

from rockbot.events.content import Message
from rockbot.events.models import LlmRequest
from rockbot.events.tools import ToolSpec

__all__ = ["corrected_factor", "estimate_messages", "estimate_request", "estimate_tokens"]

#: ASCII characters of a token, on average, of English and of code.
_ASCII: Final = 4.0
#: Tokens of one other character: between accented letters, which are less, and rare ideographs, which are more.
_OTHER: Final = 0.8
#: Tokens of an image whose file travels inline: models see its size on a screen, not the bytes of its file.
_IMAGE: Final = 1600
#: How much of a new observation goes into the factor, and between what it stays whatever is reported.
_WEIGHT: Final = 0.5
_SMALLEST, _LARGEST = 0.25, 4.0


def estimate_tokens(text: str) -> int:
    """About how many tokens a text takes; 0 only for the empty one."""
    plain = len(text) if text.isascii() else sum(1 for char in text if char.isascii())
    return _rounded_up(plain / _ASCII + (len(text) - plain) * _OTHER)


def estimate_messages(messages: Sequence[Message]) -> int:
    """About how many tokens messages take. Their JSON stands for what providers add around each."""
    return sum(map(_estimate_message, messages))


def estimate_request(request: LlmRequest, *, factor: float = 1.0) -> int:
    """About how many input tokens a request takes, what it refers to included; `factor` is the correction for its model."""
    parts = estimate_tokens(request.system) + _estimate_tools(request.tools) + estimate_messages(request.messages)
    earlier = request.earlier.total_tokens if request.earlier else 0
    return round((parts + earlier) * factor)


def corrected_factor(factor: float, *, estimated: int, reported: int) -> float:
    """The correction after one more call: `estimated` without any correction, `reported` by the provider.

    Half of the old one and half of what was seen, so that one strange call does not decide.
    """
    if estimated <= 0 or reported <= 0:
        return factor
    seen = min(max(reported / estimated, _SMALLEST), _LARGEST)
    return factor * (1 - _WEIGHT) + seen * _WEIGHT


def _estimate_message(message: Message) -> int:
    weight = message.weight
    return _rounded_up(weight.plain / _ASCII + weight.other * _OTHER) + weight.images * _IMAGE


def _rounded_up(tokens: float) -> int:
    return -int(-tokens // 1)


def _estimate_tools(tools: Sequence[ToolSpec]) -> int:
    texts = (tool.name + tool.description + to_json(tool.input_schema).decode() for tool in tools)
    return sum(map(estimate_tokens, texts))
