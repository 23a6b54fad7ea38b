"""The port to language models: what an adapter of a provider promises to the host.

Pure: no provider's package is known here. An adapter makes exactly one attempt per call; waiting and trying again belong
to the broker, so the errors below say what the broker has to know: may it be tried again, when, and could the failed
attempt have had an effect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, final

from rockbot.errors import RockBotError
from rockbot.events.models import LlmRequest, LlmResponse

__all__ = [
    "LlmClient",
    "LlmError",
    "LlmPermanent",
    "LlmThrottled",
    "LlmTransient",
    "LlmUnknownOutcome",
    "TextDelta",
]


class LlmError(RockBotError):
    """A model call failed. The text says provider, cause and, if there is one, the provider's request id; never a key."""


@final
class LlmTransient(LlmError):
    """The provider failed or could not be reached, and certainly did nothing: another attempt may succeed.

    Args:
        message: what happened.
        after: seconds the provider asks to wait; None leaves it to the subscription's policy.
    """

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


@final
class LlmThrottled(LlmError):
    """The provider refuses more work at the moment and did nothing; waiting must not cost an attempt.

    Args:
        message: what happened.
        after: seconds to wait at least.
    """

    def __init__(self, message: str, *, after: float) -> None:
        super().__init__(message)
        self.after = after


@final
class LlmPermanent(LlmError):
    """This request will never succeed as it is: wrong key, unknown model, malformed or too large."""


@final
class LlmUnknownOutcome(LlmError):
    """The connection ended before the answer: the call may have been made, and billed. It may be repeated."""


@final
@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the reply's text, as it comes."""

    text: str


class LlmClient(Protocol):
    """Access to one provider. Safe to use from many tasks of one event loop.

    `request.model` is ``<provider>/<model>``; what stands before the first slash has led to this client. `call_id`
    identifies the call over all its attempts. `deadline` is the time in seconds after which the answer interests nobody,
    None when there is no such time. Cancelling abandons the attempt.
    """

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:
        """Make one attempt and return the whole reply.

        Raises:
            LlmTransient, LlmThrottled, LlmPermanent, LlmUnknownOutcome: see there.
        """
        ...

    def stream(
        self, request: LlmRequest, *, call_id: str, deadline: float | None
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        """Make one attempt; yields the text in pieces and at the end, exactly once, the whole reply.

        The pieces joined are the text of the reply. Raises as `complete` does, also after some pieces.
        """
        ...

    async def count_tokens(self, request: LlmRequest) -> int:
        """Tokens this request would take as input.

        Raises:
            LlmTransient, LlmThrottled, LlmPermanent, LlmUnknownOutcome: as for `complete`.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; idempotent."""
        ...
