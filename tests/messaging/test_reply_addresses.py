"""No answer goes into a queue of ours, whoever asks for it."""

from __future__ import annotations

import pytest

from rockbot_messaging.layers import LayeredBus
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.reply_addresses import ReplyAddresses, is_ours
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import buried, message

_OURS = ["rockbot", "rockbot.work", "rockbot.work.dlq", "rockbot.work.delay.5", "rockbot.unrouted", "rockbot.discarded"]
_OURS += ["rockbot.reply", "rockbot.watch", "rockbot.watch.", "rockbot.replying.x"]
_THEIRS = [
    "shop.reply",
    "amq.gen-x",
    "amq.rabbitmq.reply-to.g2",
    "rockbotics.work",
    "rockbot.reply.1",
    "rockbot.watch.a.b",
]


@pytest.mark.parametrize(("address", "ours"), [*((one, True) for one in _OURS), *((one, False) for one in _THEIRS)])
def test_an_address_is_ours_by_namespace_unless_it_is_a_queue_for_replies(address: str, ours: bool) -> None:
    assert is_ours(address, "rockbot") is ours


@pytest.mark.parametrize("address", ["rockbot.work", "rockbot.work.dlq", "rockbot.work.delay.5", "rockbot.unrouted"])
async def test_a_message_whose_reply_to_is_a_queue_of_ours_is_a_dead_letter_that_says_what_to_do(address: str) -> None:
    counted, taker = Counters(), Recorder()
    bus = LayeredBus(MemoryBus(), (ReplyAddresses("rockbot", measures=counted),))
    await bus.open()
    try:
        await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",)), taker)
        await bus.publisher.publish(message("job.a", reply_to=address))
        (letter,) = await buried(bus, "work", 1)
        assert repr(address) in letter.failure.reason
        assert "a queue of your own" in letter.failure.reason
        assert counted.value(Names.UNTRUSTED, cause="reply_to") == 1
        fine = message("job.a", reply_to="shop.reply")
        await bus.publisher.publish(fine)
        await taker.wait_for(1)
        assert taker.ids == [fine.message_id]
    finally:
        await bus.close()
