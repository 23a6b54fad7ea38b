"""Stands where a real model would be, in processes that must not call any: tests, demonstrations, a stopped bill."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, NoReturn, final

from rockbot.events import LlmRequest, LlmResponse
from rockbot.llm import LlmPermanent, TextDelta

__all__ = ["ForbiddenClient"]

#: Characters of the last message that the error shows.
_SHOWN: Final = 80


@final
class ForbiddenClient:
    """Implements `rockbot.llm.LlmClient`: every call is a permanent error that names it. Needs no key and connects nowhere."""

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:  # noqa: ARG002
        """Never.

        Raises:
            LlmPermanent: always.
        """
        _refuse(request, f"call {call_id}")

    async def stream(
        self,
        request: LlmRequest,
        *,
        call_id: str,
        deadline: float | None,  # noqa: ARG002
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        """Never. Raises as `complete`."""
        _refuse(request, f"call {call_id}")
        yield  # type: ignore[unreachable]

    async def count_tokens(self, request: LlmRequest) -> int:
        """Never. Raises as `complete`."""
        _refuse(request, "count of tokens")

    async def close(self) -> None:
        """Nothing is held open."""


def _refuse(request: LlmRequest, what: str) -> NoReturn:
    said = " ".join(request.messages[-1].text.split()) if request.messages else ""
    shown = said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
    raise LlmPermanent(
        f"{request.model.partition('/')[0]}: calls to real models are forbidden here (allow_model_calls = false):"
        f" {request.model}, {what}, asked {shown!r}"
    )
