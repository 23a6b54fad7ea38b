"""What an adapter's tests lend to the conformance suite: a provider that behaves as it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, final

from rockbot.events import Message, StopReason, TextPart, ToolSpec
from rockbot.llm import LlmClient, LlmError, LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome

__all__ = [
    "COUNTED",
    "ERRORS",
    "PIXEL",
    "TOOLS",
    "Act",
    "Cuts",
    "Fails",
    "Failure",
    "Hangs",
    "Says",
    "Stage",
    "user",
]

Failure = Literal["transient", "throttled", "permanent", "unknown"]

ERRORS: Final[dict[Failure, type[LlmError]]] = {
    "transient": LlmTransient,
    "throttled": LlmThrottled,
    "permanent": LlmPermanent,
    "unknown": LlmUnknownOutcome,
}
TOOLS: Final = tuple(
    ToolSpec(name=name, description="Counts.", input_schema={"type": "object"}, toolset="math")
    for name in ("add", "subtract")
)
#: A picture of one pixel.
PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
COUNTED: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"count": {"type": "integer"}},
    "required": ["count"],
    "additionalProperties": False,
}


@final
@dataclass(frozen=True)
class Says:
    """The model thinks and says this, calls these tools, and stops.

    A call is a name and its arguments; a text stands for what was written instead of a JSON object. `stop` None follows from the
    calls. `cached` are input tokens that the provider had at hand.
    """

    text: str = ""
    calls: tuple[tuple[str, dict[str, Any] | str], ...] = ()
    thinking: str = ""
    stop: StopReason | None = None
    cached: int = 0


@final
@dataclass(frozen=True)
class Fails:
    """The attempt fails like this; `after` is what the provider asks to wait."""

    how: Failure | Literal["context_window"]
    after: float | None = None


@final
@dataclass(frozen=True)
class Cuts:
    """A stream says this much of its text; then the connection ends, or the provider says `how` it failed."""

    text: str
    how: Literal["connection", "end", "overloaded"] = "connection"


@final
@dataclass(frozen=True)
class Hangs:
    """The provider takes the call and never answers."""


Act = Says | Fails | Cuts | Hangs


class Stage(Protocol):
    """One provider; `remote` when it is reached over a network, `thinks` when its models show their reasoning."""

    model: str
    remote: bool
    thinks: bool

    def play(self, *acts: Act, streamed: bool = False) -> LlmClient:
        """The client, whose next attempts go like `acts`, one each."""
        ...

    @property
    def attempts(self) -> int:
        """How often the provider was called."""
        ...


def user(text: str) -> Message:
    """A message of the user's."""
    return Message(role="user", parts=(TextPart(text=text),))
