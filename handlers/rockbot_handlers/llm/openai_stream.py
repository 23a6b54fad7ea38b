"""Puts the chunks of a streamed completion together, so that streamed and whole replies are read by the same code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

__all__ = ["Assembly"]

#: Fields of a message whose text comes in pieces.
_PIECES: Final = ("content", "refusal", "reasoning_content", "reasoning")


@final
class Assembly:
    """The completion so far; `finished` once the server has said why it stopped."""

    def __init__(self) -> None:
        self.finished = False
        self._message: dict[str, Any] = {"role": "assistant"}
        self._calls: dict[object, dict[str, Any]] = {}
        self._last: object = None
        self._choice: dict[str, Any] = {"message": self._message}
        self._whole: dict[str, Any] = {"choices": [self._choice]}

    @property
    def said(self) -> bool:
        """Whether there is any text of the reply."""
        return bool(self._message.get("content"))

    def add(self, chunk: Mapping[str, Any]) -> str:
        """Take in one chunk and return the text that is new in it.

        Raises:
            LookupError, AttributeError, TypeError, ValueError: it is no chunk of a completion.
        """
        for name in ("model", "usage"):
            if chunk.get(name):
                self._whole[name] = chunk[name]
        text = ""
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            for name in _PIECES:
                if isinstance(piece := delta.get(name), str):
                    self._message[name] = self._message.get(name, "") + piece
                    text += piece if name == "content" else ""
            for name in ("reasoning_details", "extra_content"):
                if isinstance(piece := delta.get(name), list):
                    self._message.setdefault(name, []).extend(piece)
                elif piece:
                    self._message[name] = piece
            for call in delta.get("tool_calls") or ():
                self._add_call(call)
            if reason := choice.get("finish_reason"):
                self._choice["finish_reason"] = reason
                self.finished = True
        return text

    def whole(self) -> dict[str, Any]:
        """The completion as if it had come at once."""
        if self._calls:
            self._message["tool_calls"] = list(self._calls.values())
        return self._whole

    def _add_call(self, piece: Mapping[str, Any]) -> None:
        place = piece.get("index")
        if place is None:  # some servers give none: an id, or a name, begins the next call
            begins = piece.get("id") or (piece.get("function") or {}).get("name")
            place = ("nth", len(self._calls)) if begins or self._last is None else self._last
        self._last = place
        call = self._calls.setdefault(place, {"function": {}})
        for name, value in piece.items():
            if name == "function":
                for key, part in (value or {}).items():
                    if isinstance(part, str) and key == "arguments":
                        call["function"][key] = call["function"].get(key, "") + part
                    elif part:
                        call["function"][key] = part
            elif value is not None and value != "":
                call[name] = value
