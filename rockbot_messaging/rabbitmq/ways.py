"""What a person does where the topology tool refuses: the commands, with names filled in.

The tool never moves a message and never deletes one, because only a person knows whether it may wait, be repeated or go.
"""

from __future__ import annotations

import shlex

from rockbot_messaging.rabbitmq.found import FoundQueue
from rockbot_messaging.rabbitmq.topology import Names

__all__ = ["anew", "emptied", "exchange_anew"]


def exchange_anew(name: str, vhost: str) -> tuple[str, ...]:
    """How an exchange is made anew: its type and arguments cannot be altered."""
    vhost = shlex.quote(vhost)
    return (
        "stop every publisher and host: while the exchange is missing, publishes fail and are repeated",
        f"rabbitmqadmin --vhost={vhost} delete exchange name={name}",
        "rockbot topology apply",
        "start the hosts again",
    )


def anew(names: Names, queue: str, there: FoundQueue, vhost: str) -> tuple[str, ...]:
    """How a queue is drained, moved and made anew: its arguments cannot be altered."""
    vhost = shlex.quote(vhost)
    delete = f"rabbitmqctl delete_queue -p {vhost} {queue}"
    if not there.messages and not there.consumers:
        return (f"it is empty and nobody consumes it: {delete}", "rockbot topology apply")
    if queue.endswith(".dlq") or queue in (names.unrouted, names.discarded):
        subscription = names.subscription_of(queue)
        return (
            "stop the hosts that bury letters there",
            f"keep its {there.messages} letters: rockbot dlq export {subscription} -o letters.jsonl",
            f"rockbot dlq purge {subscription} --reason 'the queue is made anew' && {delete}",
            "rockbot topology apply && rockbot dlq import letters.jsonl",
        )
    if ".delay." in queue:
        empty = f"wait until its {there.messages} messages are due: rabbitmqctl list_queues -p {vhost} name messages"
        stop = f"then stop the hosts that consume {queue.partition('.delay.')[0]}, which fill it"
    else:
        empty = f"let the hosts drain its {there.messages} messages: rabbitmqctl list_queues -p {vhost} name messages"
        stop = f"stop the publishers, and when it is empty its {there.consumers} consumers"
    move = (
        f"or move them meanwhile (needs the plug-in rabbitmq_shovel): rabbitmqctl set_parameter -p {vhost} shovel move "
        f'\'{{"src-protocol":"amqp091","src-uri":"amqp://","src-queue":"{queue}","src-delete-after":"queue-length",'
        f'"dest-protocol":"amqp091","dest-uri":"amqp://","dest-queue":"{queue}.moved"}}\' and back the same way'
    )
    return (empty, stop, move, f"when it holds nothing: {delete}", "rockbot topology apply")


def emptied(names: Names, name: str) -> tuple[str, ...]:
    """How the messages of a queue that nobody needs are worked."""
    if name.endswith(".dlq"):
        subscription = names.subscription_of(name)
        return (
            f"look: rockbot dlq list {subscription}",
            f"work them: rockbot dlq replay {subscription} ID, or rockbot dlq discard {subscription} ID --reason '...'",
            f"or keep them in a file: rockbot dlq export {subscription} -o letters.jsonl, then rockbot dlq purge {subscription}",
        )
    if ".delay." in name:
        return ("wait: they go back to their work queue when they are due",)
    return (
        "work them: run a host or service that consumes it once more (add its handler or agent to the settings again),",
        "or, if other queues receive what its senders send today, move them with rabbitmq_shovel",
    )
