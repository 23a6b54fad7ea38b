"""Recording model calls to a file, and playing them back: tests of agents that need neither key nor network.

A cassette is a file of JSON Lines, one call each: what was asked and what came of it, in the host's own words. Keys, headers and
addresses are no part of those. Playing is strict: a request that was not recorded just so is an error that names the difference.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, final

from pydantic import BaseModel, ConfigDict, ValidationError

from rockbot.errors import ConfigError
from rockbot.events import LlmRequest, LlmResponse
from rockbot.llm import (
    LlmClient,
    LlmError,
    LlmPermanent,
    LlmThrottled,
    LlmTransient,
    LlmUnknownOutcome,
    TextDelta,
)

__all__ = ["PlayingClient", "RecordingClient"]

#: Characters of a value that an error shows.
_SHOWN: Final = 80

_FAILURES: Final[Mapping[type[LlmError], str]] = {
    LlmTransient: "transient",
    LlmThrottled: "throttled",
    LlmPermanent: "permanent",
    LlmUnknownOutcome: "unknown",
}


class _Failure(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["transient", "throttled", "permanent", "unknown"]
    message: str
    after: float | None = None

    @classmethod
    def of(cls, error: LlmError) -> _Failure:
        return cls.model_validate(
            {"kind": _FAILURES[type(error)], "message": str(error), "after": getattr(error, "after", None)}
        )

    def error(self) -> LlmError:
        match self.kind:
            case "transient":
                return LlmTransient(self.message, after=self.after)
            case "throttled":
                return LlmThrottled(self.message, after=self.after or 0.0)
            case "permanent":
                return LlmPermanent(self.message)
            case "unknown":
                return LlmUnknownOutcome(self.message)


class _Recorded(BaseModel):
    """A line: a call, and its reply, its count of tokens, or its failure. `pieces` is the text as it was streamed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    request: dict[str, Any]
    response: LlmResponse | None = None
    pieces: tuple[str, ...] | None = None
    tokens: int | None = None
    failure: _Failure | None = None


@final
class RecordingClient:
    """Implements `rockbot.llm.LlmClient`: passes calls on to `client`, and adds what came of each to the file at `path`."""

    def __init__(self, client: LlmClient, path: Path) -> None:
        self._client = client
        self._path = path

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:
        """As the client does."""
        try:
            response = await self._client.complete(request, call_id=call_id, deadline=deadline)
        except LlmError as exc:
            await self._add(_Recorded(request=_asked(request), failure=_Failure.of(exc)))
            raise
        await self._add(_Recorded(request=_asked(request), response=response))
        return response

    async def stream(
        self, request: LlmRequest, *, call_id: str, deadline: float | None
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        """As the client does."""
        pieces: list[str] = []
        try:
            async for item in self._client.stream(request, call_id=call_id, deadline=deadline):
                if isinstance(item, TextDelta):
                    pieces.append(item.text)
                else:
                    await self._add(_Recorded(request=_asked(request), response=item, pieces=tuple(pieces)))
                yield item
        except LlmError as exc:
            await self._add(_Recorded(request=_asked(request), failure=_Failure.of(exc), pieces=tuple(pieces)))
            raise

    async def count_tokens(self, request: LlmRequest) -> int:
        """As the client does."""
        tokens = await self._client.count_tokens(request)
        await self._add(_Recorded(request=_asked(request), tokens=tokens))
        return tokens

    async def close(self) -> None:
        """Close the client."""
        await self._client.close()

    async def _add(self, recorded: _Recorded) -> None:
        line = recorded.model_dump_json(exclude_none=True)
        await asyncio.to_thread(_append, self._path, line)


@final
class PlayingClient:
    """Implements `rockbot.llm.LlmClient` from a file of recorded calls.

    Each recording is played once, those of equal requests in their order. A client that streams is given the pieces that were
    streamed, or the whole text as one.

    Raises:
        ConfigError: the file cannot be read, or a line of it is no recorded call.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = _read(path)
        self._left: dict[str, list[int]] = {}
        for number, recorded in enumerate(self._lines):
            self._left.setdefault(_key(recorded), []).append(number)

    @property
    def left(self) -> int:
        """Recorded calls that nobody asked for yet."""
        return sum(map(len, self._left.values()))

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:  # noqa: ARG002
        """What was recorded.

        Raises:
            LlmPermanent: nothing was; the text says what is nearest and where it differs. The error that was recorded.
        """
        recorded = self._next(request, call_id)
        if recorded.failure is not None:
            raise recorded.failure.error()
        assert recorded.response is not None
        return recorded.response

    async def stream(
        self,
        request: LlmRequest,
        *,
        call_id: str,
        deadline: float | None,  # noqa: ARG002
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        """What was recorded. Raises as `complete`."""
        recorded = self._next(request, call_id)
        text = recorded.response.message.text if recorded.response is not None else ""
        for piece in (text,) if recorded.pieces is None else recorded.pieces:
            if piece:
                yield TextDelta(piece)
        if recorded.failure is not None:
            raise recorded.failure.error()
        assert recorded.response is not None
        yield recorded.response

    async def count_tokens(self, request: LlmRequest) -> int:
        """What was recorded. Raises as `complete`."""
        recorded = self._next(request, "count of tokens", counted=True)
        assert recorded.tokens is not None
        return recorded.tokens

    async def close(self) -> None:
        """Nothing is held open."""

    def _next(self, request: LlmRequest, call_id: str, *, counted: bool = False) -> _Recorded:
        asked = _asked(request)
        numbers = self._left.get(_key_of(asked, counted=counted))
        if numbers:
            return self._lines[numbers.pop(0)]
        provider = request.model.partition("/")[0]
        head = f"{provider}: the cassette {self._path} has no recording of this call to {request.model} ({call_id})"
        if numbers is not None:
            raise LlmPermanent(f"{head}: as often as it was recorded, it was played already; record again")
        raise LlmPermanent(f"{head}: {self._nearest(asked, counted=counted)}; record again")

    def _nearest(self, asked: dict[str, Any], *, counted: bool) -> str:
        """Where the recorded call that agrees longest begins to differ."""
        best: tuple[int, str] | None = None
        for number, recorded in enumerate(self._lines, start=1):
            if (recorded.tokens is not None) is not counted:
                continue
            agreeing, where = _difference(recorded.request, asked, "$")
            if where and (best is None or agreeing > best[0]):
                best = agreeing, f"the nearest, in line {number}, differs at {where}"
        return best[1] if best else "it is empty" if not self._lines else "it has none of this kind"


def _asked(request: LlmRequest) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads(request.to_body())
    return asked


def _key(recorded: _Recorded) -> str:
    return _key_of(recorded.request, counted=recorded.tokens is not None)


def _key_of(asked: dict[str, Any], *, counted: bool) -> str:
    text = json.dumps([counted, asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _difference(recorded: Any, asked: Any, at: str) -> tuple[int, str]:
    """How many values agree before the first difference, and the difference; empty when there is none."""
    agreeing = 0
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for name in dict.fromkeys([*recorded, *asked]):
            if name not in recorded or name not in asked:
                return agreeing, f"{at}.{name}: {'asked' if name in asked else 'recorded'} only"
            inner, where = _difference(recorded[name], asked[name], f"{at}.{name}")
            agreeing += inner
            if where:
                return agreeing, where
        return agreeing, ""
    if isinstance(recorded, list) and isinstance(asked, list):
        for number, (one, other) in enumerate(zip(recorded, asked, strict=False)):
            inner, where = _difference(one, other, f"{at}[{number}]")
            agreeing += inner
            if where:
                return agreeing, where
        if len(recorded) != len(asked):
            return agreeing, f"{at}: recorded {len(recorded)} of them, asked {len(asked)}"
        return agreeing, ""
    if recorded == asked:
        return 1, ""
    return 0, f"{at}: recorded {_shown(recorded)}, asked {_shown(asked)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _read(path: Path) -> list[_Recorded]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the cassette {path} cannot be read: {exc}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(_Recorded.model_validate_json(line))
        except ValidationError as exc:
            problem = exc.errors(include_url=False, include_input=False)[0]["msg"]
            raise ConfigError(f"line {number} of the cassette {path} is no recorded call: {problem}") from None
    return found


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
