"""The envelope: one message with its routing data, as every provider hands it over.

It is immutable and knows nothing of its body beyond a media type. `design/wire-contract.md` says where each field
travels in AMQP.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, final

from rockbot_messaging.identity import DEFAULT_TENANT, derive_id

__all__ = ["DEFAULT_TENANT", "SCHEMA_VERSION", "HeaderValue", "MessageEnvelope", "ReturnAddress"]

#: Version of the wire contract that this release writes; it reads this one and the next.
SCHEMA_VERSION: Final = 1

HeaderValue = str | int | float | bool | None

_NO_HEADERS: Final[Mapping[str, HeaderValue]] = MappingProxyType({})


@final
@dataclass(frozen=True, slots=True)
class ReturnAddress:
    """Where the result of a command goes: a topic of ours and a token that the worker copies unread."""

    topic: str
    token: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEnvelope:
    """One message.

    `topic` is the routing key; for a message on its way back from a delay or a dead-letter queue it is the first one.
    `attempt` counts from 1 the times handling was begun and counted; `handbacks` counts returns that cost no attempt.
    `timestamp_ms` has the precision of the provider (AMQP: whole seconds). `deadline_ms` is the instant after which
    the answer interests nobody. `due_ms` is set on a delayed message: it is not handled before that instant.
    `first_failed_ms` is the instant of the first failure or hand-back since it was published or sent on. `history` has a
    line for each failed attempt. `redelivered` says that an earlier delivery of this copy ended without being settled,
    `returns` how often, as far as the broker counts it. `user_id` is what the broker validated, never what the sender
    claims; None means unknown. `claim` says that the body lies in an artifact store under this digest and that `body` is
    empty. `signature` is what signing made of the fields that never change (`rockbot_messaging.signing`).
    `foreign_id` is the id that a publisher outside gave the message, where `message_id` was derived from it.
    `headers` are the free ones: they travel untouched, and names beginning with ``x-`` or ``rockbot-`` are not theirs.
    """

    topic: str
    body: bytes
    message_id: str
    type: str
    source: str = ""
    timestamp_ms: int = 0
    content_type: str = "application/json"
    tenant: str = DEFAULT_TENANT
    schema_version: int = SCHEMA_VERSION
    correlation_id: str | None = None
    reply_to: str | None = None
    destination: str | None = None
    causation_id: str | None = None
    conversation_id: str | None = None
    root_task_id: str | None = None
    deadline_ms: int | None = None
    attempt: int = 1
    handbacks: int = 0
    due_ms: int | None = None
    first_failed_ms: int | None = None
    return_address: ReturnAddress | None = None
    user_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    durable: bool = True
    redelivered: bool = False
    returns: int = 0
    claim: str | None = None
    signature: str | None = None
    foreign_id: str | None = None
    history: tuple[str, ...] = ()
    headers: Mapping[str, HeaderValue] = field(default_factory=lambda: _NO_HEADERS)

    def replace(self, **changes: Any) -> MessageEnvelope:
        """A copy with some fields changed.

        Raises:
            TypeError: there is no such field.
        """
        copy = _copied(self)
        for name, value in changes.items():
            if name not in _SLOT:
                raise TypeError(f"an envelope has no field {name!r}")
            _SLOT[name](copy, value)
        return copy

    def caused(
        self,
        name: str,
        *,
        topic: str,
        type: str,
        body: bytes,
        source: str,
        timestamp_ms: int,
        **changes: Any,
    ) -> MessageEnvelope:
        """The message that this one causes under `name`.

        Its id is derived, so that causing it again gives the same message; tenant, conversation, root task, deadline,
        correlation and trace are inherited unless given in `changes`; addresses are not.
        """
        inherited: dict[str, Any] = {
            "tenant": self.tenant,
            "correlation_id": self.correlation_id,
            "causation_id": self.message_id,
            "conversation_id": self.conversation_id,
            "root_task_id": self.root_task_id,
            "deadline_ms": self.deadline_ms,
            "traceparent": self.traceparent,
            "tracestate": self.tracestate,
        }
        inherited.update(changes)
        return MessageEnvelope(
            topic=topic,
            body=body,
            message_id=derive_id(self.message_id, name, tenant=self.tenant),
            type=type,
            source=source,
            timestamp_ms=timestamp_ms,
            **inherited,
        )


_FIELDS: Final = tuple(field.name for field in dataclasses.fields(MessageEnvelope))
_SLOT: Final = {name: MessageEnvelope.__dict__[name].__set__ for name in _FIELDS}


def _copying() -> Callable[[MessageEnvelope], MessageEnvelope]:
    """A function that copies an envelope slot by slot, written out as `dataclasses` writes constructors out.

    `dataclasses.replace` runs the constructor with thirty keyword arguments, which takes five times as long, and every retry,
    layer, letter and span makes copies.
    """
    lines = ["def copied(self):", " copy = new(MessageEnvelope)"]
    lines += [f" put_{name}(copy, self.{name})" for name in _FIELDS]
    known: dict[str, Any] = {f"put_{name}": put for name, put in _SLOT.items()}
    known |= {"new": object.__new__, "MessageEnvelope": MessageEnvelope}
    exec("\n".join([*lines, " return copy"]), known)  # noqa: S102 - of names of fields alone
    made: Callable[[MessageEnvelope], MessageEnvelope] = known["copied"]
    return made


_copied: Final = _copying()
