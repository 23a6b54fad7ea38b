"""What differs between a broker and what is wanted: told completely, and without touching the broker."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace

import pytest
from nodes.rabbitmq import RabbitNode
from rabbitmq.harness import RabbitHarness

from rockbot_messaging import WorkSubscription
from rockbot_messaging.rabbitmq import RabbitSettings
from rockbot_messaging.rabbitmq.connection import Link
from rockbot_messaging.rabbitmq.declaring import declare
from rockbot_messaging.rabbitmq.found import Found, FoundExchange, FoundQueue
from rockbot_messaging.rabbitmq.planning import Mark, Plan, Step, plan, possible_delays
from rockbot_messaging.rabbitmq.policies import Limits, Policy, effective, wanted_policies
from rockbot_messaging.rabbitmq.probing import probe
from rockbot_messaging.rabbitmq.topology import Binding, Names, Topology, delay, shared, work

_NAMES = Names("ns")
_WORK = WorkSubscription(name="work", patterns=("job.#", "task.*"))
_WANTED = shared(_NAMES) + work(_NAMES, _WORK)
_POLICIES = wanted_policies(_NAMES, Limits(), version=(3, 10))


def _as_wanted(*delays: int) -> Found:
    """A broker that has everything, and these delay queues."""
    queues = [*_WANTED.queues, *(queue for step in delays for queue in delay(_NAMES, "ns.work", step).queues)]
    return Found(
        version="3.10.8",
        queues={queue.name: FoundQueue(name=queue.name, arguments=queue.arguments) for queue in queues},
        exchanges={
            item.name: FoundExchange(name=item.name, kind=item.kind, arguments=item.arguments)
            for item in _WANTED.exchanges
        },
        bindings=frozenset(_WANTED.bindings),
        policies=_POLICIES,
        whole=True,
    )


def _plan(found: Found) -> Plan:
    return plan(_NAMES, _WANTED, _POLICIES, found, work=("ns.work",), vhost="/")


def _with_queue(queue: FoundQueue) -> Found:
    found = _as_wanted()
    return replace(found, queues={**found.queues, queue.name: queue})


def _only(found: Found) -> Step:
    (step,) = _plan(found).steps
    return step


def test_a_broker_that_has_everything_differs_in_nothing() -> None:
    assert _plan(_as_wanted(1, 30)).steps == ()


def test_on_an_empty_broker_everything_is_missing_and_nothing_is_refused() -> None:
    found = _plan(Found(version="3.10.8", bindings=frozenset(), policies=(), whole=True))
    assert {step.mark for step in found.steps} == {Mark.ADD}
    names = {(step.kind, step.name) for step in found.steps}
    assert {("queue", queue.name) for queue in _WANTED.queues} <= names
    assert {("exchange", exchange.name) for exchange in _WANTED.exchanges} <= names
    assert ("binding", "ns.commands -> ns.work (job.#)") in names
    assert ("policy", "ns.work") in names
    kinds = [step.kind for step in found.steps]
    assert kinds.index("binding") > max(kinds.index("queue"), kinds.index("exchange")), "bindings come last"


def test_what_amqp_cannot_see_is_not_called_missing() -> None:
    found = replace(_as_wanted(), bindings=None, policies=None, whole=False)
    assert _plan(found).steps == ()
    nothing = _plan(Found(version="3.10.8"))
    assert "binding" in {step.kind for step in nothing.steps}, "a queue that is missing is not bound either"
    assert "policy" not in {step.kind for step in nothing.steps}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"x-delivery-limit": 5}, "x-delivery-limit is 5, needed is 20"),
        ({"x-expires": 1000}, "x-expires=1000 is too much"),
        ({"x-overflow": None}, "x-overflow is missing, needed is 'reject-publish'"),
    ],
)
def test_a_queue_with_other_arguments_is_refused_with_what_differs(arguments: dict[str, object], told: str) -> None:
    changed = {**work(_NAMES, _WORK).queues[1].arguments, **arguments}
    kept = {name: value for name, value in changed.items() if value is not None}
    step = _only(_with_queue(FoundQueue(name="ns.work", arguments=kept)))
    assert (step.mark, step.name, step.reason) == (Mark.REFUSE, "ns.work", told)
    assert step.way[0].endswith("rabbitmqctl delete_queue -p / ns.work"), "an empty one may go at once"


def test_a_refused_queue_that_holds_messages_is_to_be_drained_first() -> None:
    step = _only(_with_queue(FoundQueue(name="ns.work", arguments={}, messages=7, consumers=2)))
    assert "drain its 7 messages" in step.way[0]
    assert any("rabbitmqctl delete_queue" in line for line in step.way[3:]), "deleting comes after draining"
    letters = _only(_with_queue(FoundQueue(name="ns.work.dlq", arguments={}, messages=3)))
    assert "rockbot dlq export work" in letters.way[1], "letters are kept before their queue goes"
    assert "rockbot dlq import" in letters.way[-1]


def test_a_queue_that_is_not_durable_or_a_classic_one_is_refused() -> None:
    there = _as_wanted().queues["ns.work"]
    assert "not durable" in _only(_with_queue(replace(there, durable=False))).reason
    classic = {**(there.arguments or {}), "x-queue-type": "classic"}
    assert "x-queue-type is 'classic'" in _only(_with_queue(replace(there, arguments=classic))).reason


def test_an_exchange_of_another_kind_is_refused() -> None:
    found = _as_wanted()
    fanout = FoundExchange(name="ns", kind="fanout", arguments={"alternate-exchange": "ns.unrouted"})
    step = _only(replace(found, exchanges={**found.exchanges, "ns": fanout}))
    assert (step.mark, step.kind) == (Mark.REFUSE, "exchange")
    assert "is a fanout exchange, needed is topic" in step.reason


def test_missing_and_surplus_bindings_are_told_apart() -> None:
    found = _as_wanted()
    assert found.bindings is not None
    gone, extra = Binding("ns.work", "ns", "task.*"), Binding("ns.work", "ns", "old.#")
    foreign = Binding("ns.work", "amq.topic", "x"), Binding("theirs", "ns", "#")
    steps = _plan(replace(found, bindings=found.bindings - {gone} | {extra, *foreign})).steps
    assert [(step.mark, step.subject) for step in steps] == [(Mark.ADD, gone), (Mark.SURPLUS, extra)]


def test_delay_queues_are_wanted_where_they_exist_and_compared() -> None:
    (right,) = delay(_NAMES, "ns.work", 30).queues
    step = _only(_with_queue(FoundQueue(name=right.name, arguments={**right.arguments, "x-message-ttl": 1})))
    assert (step.mark, step.reason) == (Mark.REFUSE, "x-message-ttl is 1, needed is 30000")
    orphan = _only(_with_queue(FoundQueue(name="ns.gone.delay.30", arguments={})))
    assert orphan.mark is Mark.SURPLUS


def test_queues_that_nobody_needs_are_surplus_in_the_order_in_which_they_empty() -> None:
    found = _as_wanted()
    more = [FoundQueue(name=name, arguments={}) for name in ("ns.old.dlq", "ns.old", "ns.old.delay.5")]
    more += [
        FoundQueue(name="ns.watch.news.1", transient=True, arguments={}),
        FoundQueue(name="ns.reply.1", arguments={}),
        FoundQueue(name="other.old", arguments={}),
        FoundQueue(name="nsx", arguments={}),
    ]
    steps = _plan(replace(found, queues={**found.queues, **{queue.name: queue for queue in more}})).steps
    assert [step.name for step in steps] == ["ns.old.delay.5", "ns.old", "ns.old.dlq"]
    assert {step.mark for step in steps} == {Mark.SURPLUS}


def test_a_surplus_queue_with_letters_says_how_to_work_them() -> None:
    step = _only(_with_queue(FoundQueue(name="ns.old.dlq", arguments={}, messages=4)))
    assert "holds 4 messages" in step.reason
    assert step.way[0] == "look: rockbot dlq list old"


def test_a_policy_of_ours_with_other_numbers_is_altered() -> None:
    work_policy = _POLICIES[0]
    old = replace(work_policy, definition={**work_policy.definition, "max-length": 5})
    step = _only(replace(_as_wanted(), policies=(old, *_POLICIES[1:])))
    assert (step.mark, step.reason) == (Mark.ALTER, "max-length is 5, needed is 1000000")


def test_a_policy_of_others_that_ours_displaces_is_named() -> None:
    step = _only(
        replace(_as_wanted(), policies=(*_POLICIES[1:], Policy("theirs", r"^ns\.work$", {"max-length": 9}, 0)))
    )
    assert step.mark is Mark.ADD
    assert step.reason.endswith("takes the place of theirs")


@pytest.mark.parametrize(
    ("pattern", "definition", "told"),
    [
        (r"^ns\.work$", {"max-length": 9}, "priority 500 puts it before ours"),
        (r"\.dlq$", {"message-ttl": 60_000}, "erases letters after 60 s"),
        (r"\.dlq$", {"max-length": 10}, "drops the oldest letters"),
        (r"^ns\.work$", {"expires": 60_000}, "deletes the queue, messages and all, after 60 s"),
    ],
)
def test_a_policy_of_others_that_endangers_a_queue_is_refused(
    pattern: str, definition: dict[str, object], told: str
) -> None:
    rival = Policy("theirs", pattern, definition, 500)
    step = _only(replace(_as_wanted(), policies=(*_POLICIES, rival)))
    assert (step.mark, step.kind, step.name) == (Mark.REFUSE, "policy", "theirs")
    assert told in step.reason
    assert "ns.*" in step.way[0]


def test_an_operator_policy_counts_beside_ours_and_can_endanger_letters_too() -> None:
    rival = Policy("forced", r"\.dlq$", {"message-ttl": 1000}, 0)
    step = _only(replace(_as_wanted(), operator_policies=(rival,)))
    assert (step.mark, step.kind, step.name) == (Mark.REFUSE, "operator policy", "forced")
    harmless = Policy("forced", r"^ns\.work$", {"max-length": 10}, 500)
    assert _plan(replace(_as_wanted(), operator_policies=(harmless,))).steps == ()


def test_limits_cover_work_and_delay_queues_and_never_letters() -> None:
    covered = {
        name: policy.name if (policy := effective(_POLICIES, name)) else None
        for name in (
            "ns.work",
            "ns.work.delay.5",
            "ns.work.dlq",
            "ns.unrouted",
            "ns.discarded",
            "ns.watch.x.1",
            "nsx.work",
        )
    }
    assert covered == {
        "ns.work": "ns.work",
        "ns.work.delay.5": "ns.work",
        "ns.work.dlq": None,
        "ns.unrouted": "ns.unrouted",
        "ns.discarded": None,
        "ns.watch.x.1": None,
        "nsx.work": None,
    }
    assert _POLICIES[1].definition["overflow"] == "reject-publish", "a full unrouted queue refuses, it does not drop"


def test_a_delivery_may_last_twice_as_long_as_the_longest_handler_where_a_policy_can_say_so() -> None:
    slow = Limits(handler_seconds=3600)
    assert wanted_policies(_NAMES, slow, version=(4, 1))[0].definition["consumer-timeout"] == 7_200_000
    assert wanted_policies(_NAMES, Limits(), version=(3, 12))[0].definition["consumer-timeout"] == 1_800_000
    assert "consumer-timeout" not in wanted_policies(_NAMES, slow, version=(3, 11))[0].definition


# -- over AMQP --------------------------------------------------------------------------------------------------------


async def _ignore(_: object) -> None: ...


async def _look(harness: RabbitHarness, wanted: Topology) -> Found:
    link = Link(RabbitSettings(url=harness.url, namespace=harness.namespace), "test")
    await link.open()
    try:
        names = Names(harness.namespace)
        return await probe(await link.session(5), wanted, perhaps=possible_delays(names, [names.queue("work")], (1, 5)))
    finally:
        await link.close()


def _names_on(node: RabbitNode, what: str, namespace: str) -> set[str]:
    rows = json.loads(node.ctl(f"list_{what}", "--formatter", "json", "name"))
    return {row["name"] for row in rows if row["name"].startswith(namespace)}


@pytest.mark.rabbitmq
async def test_looking_over_amqp_creates_nothing(rabbit_node: RabbitNode) -> None:
    harness = RabbitHarness(rabbit_node.url)
    names = Names(harness.namespace)
    wanted = shared(names) + work(names, _WORK)
    found = await _look(harness, wanted)
    assert (found.queues, found.exchanges) == ({}, {})
    for what in ("queues", "exchanges"):
        assert await asyncio.to_thread(_names_on, rabbit_node, what, harness.namespace) == set()
    assert any("bindings" in line for line in found.blind)


@pytest.mark.rabbitmq
async def test_looking_over_amqp_finds_depth_consumers_and_what_differs(amqp_url: str) -> None:
    harness = RabbitHarness(amqp_url)
    names = Names(harness.namespace)
    wanted = shared(names) + work(names, _WORK)
    link = Link(harness.settings(), "test")
    await link.open()
    await declare(await link.session(5), wanted + delay(names, names.queue("work"), 5))
    await link.close()
    channel = await harness.stranger()
    await (await channel.get_queue(names.queue("work"))).consume(_ignore)
    other = f"other-{uuid.uuid4().hex}"
    await channel.declare_queue(other, durable=True, arguments={"x-queue-type": "quorum"})
    altered = tuple(replace(queue, name=other) if queue.name.endswith(".dlq") else queue for queue in wanted.queues)
    found = await _look(harness, replace(wanted, queues=altered))
    assert found.queues[names.queue("work")].consumers == 1
    assert found.queues[names.delay(names.queue("work"), 5)].differs == ""
    assert names.delay(names.queue("work"), 1) not in found.queues
    assert "x-delivery-limit" in found.queues[other].differs
    steps = plan(names, replace(wanted, queues=altered), (), found, work=[names.queue("work")], vhost="/").steps
    assert [(step.mark, step.name) for step in steps] == [(Mark.REFUSE, other)]
    await channel.queue_delete(other)
    await harness.close()
