"""What each kind of process may do on the broker, and no more: one user per role.

The names come from the same tables that are declared, so a queue that is added there is allowed here. What RabbitMQ asks
for: declaring needs `configure`; a queue with a dead-letter exchange also `read` on the queue and `write` on that exchange
(ours is the default exchange, whose name in permissions is ``amq.default``); an exchange with an alternate one `read` on
itself and `write` on the other; binding needs `write` on the queue and `read` on the exchange.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

from rockbot_messaging.ports import Door
from rockbot_messaging.rabbitmq.topology import Names, Topology, shared, work
from rockbot_messaging.subscriptions import WorkSubscription

__all__ = ["NOTHING", "Role", "TopicPermission", "host", "operator", "publisher", "topic_regex", "worker"]

#: The regular expression that allows nothing.
NOTHING: Final = "^$"

_DEFAULT_EXCHANGE: Final = "amq.default"


@final
@dataclass(frozen=True, slots=True)
class TopicPermission:
    """Which keys a user may publish to a topic exchange with (`write`) and bind to it with (`read`)."""

    exchange: str
    write: str
    read: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """The permissions of one role as RabbitMQ takes them; regular expressions on names in one virtual host."""

    name: str
    does: str
    configure: str
    write: str
    read: str
    topics: tuple[TopicPermission, ...] = ()
    tags: tuple[str, ...] = ()


def host(names: Names) -> Role:
    """An agent host: everything in its namespace, and nothing outside of it but to send (answers to foreign queues)."""
    ours = rf"{re.escape(names.namespace)}(\..+)?"
    return Role(
        name="host",
        does="runs `rockbot run`",
        configure=f"^{ours}$",
        write=rf"^(amq\.default|{ours})$",
        read=f"^{ours}$",
    )


def worker(
    names: Names, subscriptions: Iterable[WorkSubscription], *, answers: Iterable[str], watches: Iterable[str] = ()
) -> Role:
    """A service that consumes `subscriptions` and answers to topics like `answers`; `watches` are broadcasts it hears.

    It may send to any queue by name, because that is how letters are buried; whom a host believes is the setting `trust`.
    """
    listed = list(subscriptions)
    table = shared(names)
    for subscription in listed:
        table += work(names, subscription)
    queues = [names.queue(item.name) for item in listed]
    delays = [rf"{re.escape(queue)}\.delay\.\d+" for queue in queues]
    own = [*_all_names(table), *delays, _transient(names)]
    commands = names.exchange(Door.COMMANDS)
    # A binding's key is compared as text: `a.*` must be allowed as the three characters that it is.
    bound = _any_of([*_escaped(pattern for item in listed for pattern in item.patterns), *map(topic_regex, watches)])
    said = _any_of(topic_regex(pattern) for pattern in answers)
    return Role(
        name="worker",
        does="runs a service such as `rockbot scripts`",
        configure=_any_of(own),
        write=_any_of([*_escaped(_written(table)), re.escape(commands), *delays, _transient(names)]),
        read=_any_of(
            [
                *_escaped(_read(table)),
                *_escaped(names.exchange(door) for door in Door),
                *_escaped(queues),
                *delays,
                _transient(names),
            ]
        ),
        topics=(
            TopicPermission(names.exchange(Door.PUBLIC), NOTHING, bound),
            TopicPermission(commands, said, bound),
            TopicPermission(names.exchange(Door.LOSSY), NOTHING, bound),
        ),
    )


def publisher(names: Names, *, user: str, topics: Iterable[str]) -> Role:
    """A service of somebody else: publishes to the front door on `topics`, hears answers on queues of its own.

    Its own are queues that the broker names (``amq.gen-...``) and durable ones that begin with ``<user>.reply``, unless
    that would lie in our namespace.
    """
    ours = user == names.namespace or user.startswith(f"{names.namespace}.")
    own = _any_of([r"amq\.gen-.+", *([] if ours else [rf"{re.escape(user)}\.reply(\..+)?"])])
    door = names.exchange(Door.PUBLIC)
    return Role(
        name="publisher",
        does="sends tasks from other software",
        configure=own,
        write=f"^{re.escape(door)}$",
        read=own,
        topics=(TopicPermission(door, _any_of(topic_regex(pattern) for pattern in topics), NOTHING),),
    )


def operator(names: Names) -> Role:
    """A person at the command line: asks, publishes, reads and works dead letters; does not consume work."""
    table = shared(names)
    namespace = re.escape(names.namespace)
    letters = rf"{namespace}\..+\.dlq"
    doors = [re.escape(names.exchange(door)) for door in Door]
    return Role(
        name="operator",
        does="runs `rockbot ask`, `publish`, `dlq` and `doctor`",
        configure=_any_of([*_all_names(table), _transient(names)]),
        write=_any_of([*_escaped(_written(table)), r"amq\.default", *doors[:2], _transient(names)]),
        read=_any_of(
            [*_escaped(_read(table)), *doors, *_escaped(q.name for q in table.queues), letters, _transient(names)]
        ),
        tags=("management",),
    )


def topic_regex(pattern: str) -> str:
    """A topic pattern as a regular expression on routing keys: ``*`` is one word, ``#`` any number of them."""
    text = ""
    for number, word in enumerate(pattern.split(".")):
        dot = r"\." if number else ""
        if word == "#":
            text += rf"({dot}[^.]+)*" if number else r"([^.]+(\.[^.]+)*)?"
        else:
            text += dot + (r"[^.]+" if word == "*" else re.escape(word))
    return text


def _transient(names: Names) -> str:
    return rf"{re.escape(names.namespace)}\.(watch|reply)\..+"


def _all_names(table: Topology) -> list[str]:
    return _escaped([*(queue.name for queue in table.queues), *(exchange.name for exchange in table.exchanges)])


def _written(table: Topology) -> list[str]:
    """What declaring the table needs `write` on."""
    needed = [binding.queue for binding in table.bindings]
    needed += [exchange.arguments["alternate-exchange"] for exchange in table.exchanges if exchange.arguments]
    for queue in table.queues:
        if "x-dead-letter-exchange" in queue.arguments:
            needed.append(queue.arguments["x-dead-letter-exchange"] or _DEFAULT_EXCHANGE)
    return needed


def _read(table: Topology) -> list[str]:
    """What declaring the table needs `read` on."""
    needed = [binding.exchange for binding in table.bindings]
    needed += [exchange.name for exchange in table.exchanges if exchange.arguments]
    needed += [queue.name for queue in table.queues if "x-dead-letter-exchange" in queue.arguments]
    return needed


def _escaped(names: Iterable[str]) -> list[str]:
    return [re.escape(name) for name in names]


def _any_of(expressions: Iterable[str]) -> str:
    """One anchored expression for all of them, each once."""
    listed = dict.fromkeys(expressions)
    return f"^({'|'.join(listed)})$" if listed else NOTHING
