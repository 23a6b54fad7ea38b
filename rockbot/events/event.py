"""What every event is: an immutable typed body with a stable name of its own.

Type names are ours and never derived from Python names, so that a class may move and other languages may take part.
Reading is tolerant (unknown fields pass); writing carries exactly the fields declared here.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticSerializationError, to_json

from rockbot_messaging.ports import Door

__all__ = ["Event"]


class Event(BaseModel):
    """A message body. Subclasses say their `type_name`, where they are published (`door`), and the topics they come by."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    #: Stable name on the wire, for example ``rockbot.agent.task``.
    type_name: ClassVar[str]
    #: Patterns of the topics that carry this event when a message does not name its type.
    topics: ClassVar[tuple[str, ...]] = ()
    #: The exchange it leaves by: commands must be received, facts may be kept, signals may be lost.
    door: ClassVar[Door] = Door.COMMANDS

    def to_body(self) -> bytes:
        """The JSON body, always valid UTF-8: a lone surrogate in a text becomes U+FFFD."""
        try:
            return self.model_dump_json(exclude_none=True).encode()
        except PydanticSerializationError:
            return to_json(_sayable(self.model_dump(exclude_none=True)), inf_nan_mode="null")


def _sayable(value: Any) -> Any:
    """`value` without lone surrogates. Providers and tools pass on what broken JSON escapes gave them."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {_sayable(name): _sayable(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_sayable(inner) for inner in value]
    return value
