"""What a broker has, as far as it could be seen: the same data whether it came over AMQP or from the management interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from rockbot_messaging.rabbitmq.policies import Policy
from rockbot_messaging.rabbitmq.topology import Binding

__all__ = ["Found", "FoundExchange", "FoundQueue"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FoundQueue:
    """A queue on the broker.

    `arguments` None means that only the broker compared them: `differs` is then what it said (empty: they are as wanted).
    `messages` counts those in somebody's hands too, if `counts_unacked`.
    """

    name: str
    arguments: Mapping[str, Any] | None = None
    differs: str = ""
    durable: bool = True
    transient: bool = False
    messages: int = 0
    counts_unacked: bool = False
    consumers: int = 0
    policy: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FoundExchange:
    """An exchange on the broker; `arguments` None and `differs` as for a queue."""

    name: str
    kind: str = "topic"
    arguments: Mapping[str, Any] | None = None
    differs: str = ""
    durable: bool = True


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a look saw. `bindings` and `policies` None, `whole` False: those could not be seen, `blind` says so in words.

    `whole` means that every queue and exchange of the virtual host was seen, so that surplus ones can be told.
    """

    version: str
    queues: Mapping[str, FoundQueue] = field(default_factory=dict)
    exchanges: Mapping[str, FoundExchange] = field(default_factory=dict)
    bindings: frozenset[Binding] | None = None
    policies: tuple[Policy, ...] | None = None
    operator_policies: tuple[Policy, ...] = ()
    whole: bool = False
    blind: tuple[str, ...] = ()
