"""The RabbitMQ part: our host and others in turn on one node, each with a quorum queue between publisher and consumer.

Those that can use a queue they did not make use the same exchange and queue as we do; task queues (Dramatiq, Celery, Taskiq)
bring their own message format and queue, and get fewer messages because they are slower.

Every contender first publishes its own messages, which is measured, and then consumes them, which is measured. Each run
is a process of its own. The order changes from round to round, so that a slow minute of the machine hits all of them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import pika

from rockbot_messaging.ports import Door
from rockbot_messaging.rabbitmq.topology import Names, Topology, shared, work
from tests.benchmarks import running
from tests.benchmarks.host_path import ORDERS, TOPIC
from tests.nodes.rabbitmq import RabbitNode

__all__ = ["CONTENDERS", "IN_FLIGHT", "PREFETCH", "broker_url", "measure"]

PREFETCH: Final = ORDERS.prefetch
IN_FLIGHT: Final = 100
#: Ours alone, also on a server that others use: everything in it is removed at the end.
_NAMESPACE: Final = f"bench-{os.getpid()}"

#: What is run per contender and round: mode -> (module, arguments with places to fill in).
CONTENDERS: Final[dict[str, dict[str, tuple[str, list[str]]]]] = {
    "rockbot": {
        "publish-many": ("rockbot_host", ["publish-many", "{url}", "{namespace}", "{total}", "{in_flight}"]),
        "publish": ("rockbot_host", ["publish", "{url}", "{namespace}", "{total}", "{in_flight}"]),
        "consume": ("rockbot_host", ["consume", "{url}", "{namespace}", "{total}"]),
    },
    "aio-pika": {
        "publish": ("plain_aio_pika", ["publish", "{url}", "{exchange}", "{topic}", "{total}", "{in_flight}"]),
        "consume": ("plain_aio_pika", ["consume", "{url}", "{queue}", "{total}", "{prefetch}"]),
    },
    "faststream": {
        "publish": ("fast_stream", ["publish", "{url}", "{exchange}", "{topic}", "{total}", "{in_flight}"]),
        "consume": ("fast_stream", ["consume", "{url}", "{queue}", "{total}", "{prefetch}"]),
    },
    "aiormq": {
        "publish": ("plain_aiormq", ["publish", "{url}", "{exchange}", "{topic}", "{total}", "{in_flight}"]),
        "consume": ("plain_aiormq", ["consume", "{url}", "{queue}", "{total}", "{prefetch}"]),
    },
    "dramatiq": {
        "publish": ("dramatiq_worker", ["publish", "{url}", "{own}", "{fewer}"]),
        "consume": ("dramatiq_worker", ["consume", "{url}", "{own}", "{fewer}"]),
    },
    "celery": {
        "publish": ("celery_worker", ["publish", "{url}", "{own}", "{fewer}"]),
        "consume": ("celery_worker", ["consume", "{url}", "{own}", "{fewer}"]),
    },
    "taskiq": {
        "publish": ("taskiq_worker", ["publish", "{url}", "{own}", "{fewer}", "{in_flight}"]),
        "consume": ("taskiq_worker", ["consume", "{url}", "{own}", "{fewer}"]),
    },
}
#: What those with queues of their own leave beside them.
_LEFT_BESIDE: Final = ("", ".DQ", ".XQ", ".dead", ".delay")


@contextlib.contextmanager
def broker_url() -> Iterator[str]:
    """A private node, or the server that ROCKBOT_TEST_AMQP_URL names."""
    if given := os.environ.get("ROCKBOT_TEST_AMQP_URL"):
        yield given
        return
    node = RabbitNode()
    try:
        node.start()
        yield node.url
    finally:
        node.stop()


@final
@dataclass(frozen=True, slots=True)
class Samples:
    """Results of all rounds: contender -> run -> one measurement per round."""

    runs: dict[str, dict[str, list[dict[str, float]]]]
    server: str


def measure(url: str, *, rounds: int, messages: int, say: Callable[[str], None]) -> Samples:
    """Run every contender `rounds` times with `messages` messages each."""
    names = Names(_NAMESPACE)
    queue = names.queue(ORDERS.name)
    values = {
        "url": url,
        "namespace": _NAMESPACE,
        "exchange": names.exchange(Door.COMMANDS),
        "topic": TOPIC,
        "queue": queue,
        "total": str(messages),
        "fewer": str(max(1000, messages // 5)),
        "in_flight": str(IN_FLIGHT),
        "prefetch": str(PREFETCH),
    }
    runs: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in CONTENDERS}
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url + "?heartbeat=0"))) as connection:
        channel = connection.channel()
        server = str(connection._impl.server_properties.get("version", "unknown"))
        topology = _topology(names)
        _declare(channel, topology)
        contenders = list(CONTENDERS)
        try:
            for number in range(rounds):
                say(f"broker round {number + 1} of {rounds}")
                for name in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
                    own = f"{_NAMESPACE}.{name}"
                    for mode, (module, arguments) in CONTENDERS[name].items():
                        uses = own if "{own}" in arguments else queue
                        if mode != "consume" and uses == queue:
                            channel.queue_purge(queue)
                        results = running.run(module, [argument.format(**values, own=own) for argument in arguments])
                        if mode == "consume":
                            _check_settled(channel, uses, name)
                        for run, result in results.items():
                            runs[name].setdefault(run, []).append(result)
                    _remove_own(channel, own)
        finally:
            _remove(channel, topology)
    return Samples(runs, server)


def _topology(names: Names) -> Topology:
    """The same exchange and queue for all, with the arguments that our provider gives them."""
    return shared(names) + work(names, ORDERS)


def _declare(channel: Any, topology: Topology) -> None:
    for queue in topology.queues:
        channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
    for exchange in topology.exchanges:
        channel.exchange_declare(exchange.name, exchange.kind, durable=True, arguments=dict(exchange.arguments))
    for binding in topology.bindings:
        channel.queue_bind(binding.queue, binding.exchange, binding.pattern)


def _remove(channel: Any, topology: Topology) -> None:
    for queue in topology.queues:
        channel.queue_delete(queue.name)
    for exchange in topology.exchanges:
        channel.exchange_delete(exchange.name)


def _remove_own(channel: Any, own: str) -> None:
    for suffix in _LEFT_BESIDE:
        channel.queue_delete(own + suffix)
    channel.exchange_delete(f"{own}.exchange")


def _check_settled(channel: Any, queue: str, name: str) -> None:
    """A contender that left deliveries unacknowledged was not measured doing the same work."""
    time.sleep(0.3)
    left = channel.queue_declare(queue, passive=True).method.message_count
    if left > IN_FLIGHT:
        raise RuntimeError(f"{name} did not acknowledge everything it handled: {left} messages came back")
