"""Puts the events of a streamed message together, so that streamed and whole replies are read by the same code.

From the raw events and not by the SDK's own collector: that one takes a stream which ends too early for a whole reply, gives
up on arguments that are no JSON, and loses what it does not know of a block.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, final

__all__ = ["Assembly"]

#: Kind of a delta: the field of the block that it makes longer, and its own field that says by what.
_PIECES: Final = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


@final
class Assembly:
    """The message so far; `finished` once the server has said that it is whole."""

    def __init__(self) -> None:
        self.finished = False
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._written: dict[int, str] = {}
        self._texts = 0

    def add(self, event: Mapping[str, Any]) -> str:
        """Take in one event and return the text that is new in the reply.

        Raises:
            LookupError, AttributeError, TypeError, ValueError: it is no event of a message.
        """
        match event["type"]:
            case "message_start":
                self._message = dict(event["message"])
            case "content_block_start":
                return self._begin(event["index"], dict(event["content_block"]))
            case "content_block_delta":
                return self._extend(event["index"], event["delta"])
            case "content_block_stop":
                self._end(event["index"])
            case "message_delta":
                self._message |= {name: value for name, value in event["delta"].items() if value is not None}
                usage = {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
                # The counts of this event are totals; what it does not name stays as it was at the start.
                self._message["usage"] = {**(self._message.get("usage") or {}), **usage}
            case "message_stop":
                self.finished = bool(self._message)
        return ""

    @property
    def begun(self) -> bool:
        """Whether anything of the message is here."""
        return bool(self._message)

    def whole(self) -> dict[str, Any]:
        """The message as if it had come at once."""
        return {**self._message, "content": [self._blocks[at] for at in sorted(self._blocks)]}

    def _begin(self, at: int, block: dict[str, Any]) -> str:
        self._blocks[at] = block
        if block["type"] != "text":
            return ""
        self._texts += 1
        # The text of a reply is its blocks, each on a line of its own.
        between = "\n" if self._texts > 1 else ""
        return between + str(block.get("text") or "")

    def _extend(self, at: int, delta: Mapping[str, Any]) -> str:
        block = self._blocks[at]
        match delta["type"]:
            case "text_delta" | "thinking_delta" | "signature_delta" as kind:
                field = _PIECES[kind]
                piece = delta[field]
                block[field] = (block.get(field) or "") + piece
                return str(piece) if field == block["type"] == "text" else ""
            case "input_json_delta":
                self._written[at] = self._written.get(at, "") + delta["partial_json"]
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        return ""

    def _end(self, at: int) -> None:
        if written := self._written.pop(at, ""):
            try:
                self._blocks[at]["input"] = json.loads(written)
            except ValueError:
                # What was written stands for it; the reader of the block tells the model.
                self._blocks[at]["input"] = written
