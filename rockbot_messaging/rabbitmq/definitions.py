"""A topology as a definitions document: what ``rabbitmqctl import_definitions`` and the management interface read.

No password is made up here. A user without a hash is imported as one that cannot log in by password, until somebody sets
one; importing such a user over an existing one takes its password away, so users are written only when asked for.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from rockbot_messaging.rabbitmq.policies import Policy
from rockbot_messaging.rabbitmq.roles import Role
from rockbot_messaging.rabbitmq.topology import Topology

__all__ = ["User", "check_hash", "definitions"]

#: What `rabbitmqctl hash_password` makes: four bytes of salt, then a SHA-256.
_HASH_BYTES: Final = 36
_ALGORITHM: Final = "rabbit_password_hashing_sha256"


@final
@dataclass(frozen=True, slots=True)
class User:
    """A broker user in a role; `password_hash` empty means that it cannot log in by password."""

    name: str
    role: Role
    password_hash: str = ""


def check_hash(text: str) -> str:
    """Return a password hash unchanged if it is one that RabbitMQ makes.

    Raises:
        ValueError: it is not; the text does not repeat it, because it may be a password.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _HASH_BYTES:
        raise ValueError("it is no password hash: make one with `rabbitmqctl hash_password`")
    return text


def definitions(
    *,
    version: str,
    vhost: str,
    topology: Topology,
    policies: Iterable[Policy] = (),
    users: Iterable[User] = (),
) -> dict[str, Any]:
    """The document for one virtual host; transient queues are left out."""
    listed = list(users)
    document: dict[str, Any] = {
        "rabbit_version": version,
        "rabbitmq_version": version,
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {
                "name": exchange.name,
                "vhost": vhost,
                "type": exchange.kind,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": dict(exchange.arguments),
            }
            for exchange in topology.exchanges
        ],
        "queues": [
            {
                "name": queue.name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": dict(queue.arguments),
            }
            for queue in topology.queues
            if not queue.transient
        ],
        "bindings": [
            {
                "source": binding.exchange,
                "vhost": vhost,
                "destination": binding.queue,
                "destination_type": "queue",
                "routing_key": binding.pattern,
                "arguments": {},
            }
            for binding in topology.bindings
        ],
        "policies": [{"vhost": vhost, "name": policy.name, **policy_body(policy)} for policy in policies],
    }
    if listed:
        document["users"] = [
            {
                "name": user.name,
                "password_hash": user.password_hash,
                "hashing_algorithm": _ALGORITHM,
                "tags": list(user.role.tags),
            }
            for user in listed
        ]
        document["permissions"] = [
            {
                "user": user.name,
                "vhost": vhost,
                "configure": user.role.configure,
                "write": user.role.write,
                "read": user.role.read,
            }
            for user in listed
        ]
        document["topic_permissions"] = [
            {"user": user.name, "vhost": vhost, "exchange": topic.exchange, "write": topic.write, "read": topic.read}
            for user in listed
            for topic in user.role.topics
        ]
    return document


def policy_body(policy: Policy) -> Mapping[str, Any]:
    """A policy as the management interface takes it."""
    return {
        "pattern": policy.pattern,
        "apply-to": policy.apply_to,
        "priority": policy.priority,
        "definition": dict(policy.definition),
    }
