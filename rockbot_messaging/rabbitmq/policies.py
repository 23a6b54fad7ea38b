"""Which policies the queues of a namespace should be under, and which policies of others endanger them.

What keeps a message safe is an argument of its queue; a policy holds what may be tuned while messages lie there: how much
a queue may hold and how long a delivery may last. No limit of ours drops anything: a full queue refuses the publisher.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from rockbot_messaging.rabbitmq.topology import Names

__all__ = ["DEFAULT_CONSUMER_TIMEOUT", "Limits", "Policy", "effective", "harm", "version_of", "wanted_policies"]

#: Seconds; RabbitMQ's own default of `consumer_timeout`.
DEFAULT_CONSUMER_TIMEOUT: Final = 1800.0

#: Higher than what a cluster usually has for everything, so that ours is the one that counts (only one ever does).
_PRIORITY: Final = 100

#: The first release whose policies know `consumer-timeout`; before, it is one number in rabbitmq.conf.
_TIMEOUT_POLICY_SINCE: Final = (3, 12)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may wait. Beyond it the broker refuses publishes, and publishers wait or repeat; nothing is dropped.

    Args:
        max_messages: messages in one work or delay queue.
        max_bytes: bytes of bodies in one work or delay queue.
        max_unrouted: messages in the unrouted queue, which anybody who may publish can fill.
        handler_seconds: the longest time that a handler may hold a delivery.
    """

    max_messages: int = 1_000_000
    max_bytes: int = 2 << 30
    max_unrouted: int = 100_000
    handler_seconds: float = 600.0

    @property
    def consumer_timeout(self) -> float:
        """Seconds after which the broker takes a delivery away: at least twice what a handler may need."""
        return max(DEFAULT_CONSUMER_TIMEOUT, 2 * self.handler_seconds)


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """A policy of the broker: what holds for every queue whose name `pattern` finds."""

    name: str
    pattern: str
    definition: Mapping[str, Any]
    priority: int = _PRIORITY
    apply_to: str = "queues"

    def covers(self, queue: str) -> bool:
        """Whether it may hold for this queue; a pattern that Python cannot read covers nothing."""
        if self.apply_to not in ("queues", "all", "quorum_queues", "classic_queues"):
            return False
        try:
            return self.apply_to != "classic_queues" and re.search(self.pattern, queue) is not None
        except re.error:
            return False


def version_of(text: str) -> tuple[int, int]:
    """Major and minor of a version; (3, 0) of one that cannot be read."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (3, 0)


def wanted_policies(names: Names, limits: Limits, *, version: tuple[int, int]) -> tuple[Policy, ...]:
    """The policies of a namespace, as far as this release of the broker knows them.

    Dead-letter queues are under none: they have no overflow argument, and whoever limits them loses letters.
    """
    namespace, unrouted = re.escape(names.namespace), re.escape(names.unrouted)
    work: dict[str, Any] = {"max-length": limits.max_messages, "max-length-bytes": limits.max_bytes}
    if version >= _TIMEOUT_POLICY_SINCE:
        work["consumer-timeout"] = int(limits.consumer_timeout * 1000)
    return (
        Policy(
            f"{names.namespace}.work",
            # Work and delay queues: everything but letters of any kind and what goes with its connection.
            rf"^(?!({unrouted}|{re.escape(names.discarded)})$|{namespace}\.(watch|reply)\.|.*\.dlq$){namespace}\..+$",
            work,
        ),
        Policy(
            f"{names.namespace}.unrouted",
            f"^{unrouted}$",
            {"max-length": limits.max_unrouted, "overflow": "reject-publish"},
        ),
    )


def effective(policies: Iterable[Policy], queue: str) -> Policy | None:
    """The one policy that counts for a queue."""
    return max(
        (policy for policy in policies if policy.covers(queue)), key=lambda policy: policy.priority, default=None
    )


def harm(names: Names, queue: str, definition: Mapping[str, Any]) -> str:
    """What a policy would do to a durable queue of ours that nobody wants; empty when nothing."""
    letters = queue.endswith(".dlq") or queue in (names.unrouted, names.discarded)
    refuses = definition.get("overflow") in ("reject-publish", "reject-publish-dlx")
    if "expires" in definition:
        return f"deletes the queue, messages and all, after {_seconds(definition['expires'])} without a consumer"
    if letters and "message-ttl" in definition:
        return f"erases letters after {_seconds(definition['message-ttl'])}"
    if letters and not refuses and ("max-length" in definition or "max-length-bytes" in definition):
        return "drops the oldest letters when the queue is full"
    if not letters and ".delay." not in queue and "message-ttl" in definition:
        return f"dead-letters what waits longer than {_seconds(definition['message-ttl'])}"
    return ""


def _seconds(milliseconds: object) -> str:
    return f"{milliseconds / 1000:g} s" if isinstance(milliseconds, int | float) else f"{milliseconds} ms"
