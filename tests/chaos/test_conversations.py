"""Conversations by the hundred over two replicas that are killed at random: all end, each in its order, none of it twice.

The small size runs in every suite; ``make chaos`` runs a thousand. What the hosts keep together holds meanwhile: the slots of a
backend, and a limit of a day.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Final

import pytest
from chaos.talker import ERRANDS, TOKENS
from chaos.talks import Talks, check, check_calls, most_at_once
from nodes.rabbitmq import RabbitNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.crash]

#: Servers of state, and what keeps a run apart from others on one.
SERVERS: Final = {"postgres": ("postgres", "pool=8&schema"), "redis": ("redis_node", "pool=8&prefix")}


def _seed() -> int:
    seed = int(os.environ.get("ROCKBOT_TEST_SEED", "0")) or random.randrange(1, 2**32)
    print(f"seed {seed} (ROCKBOT_TEST_SEED repeats it)")
    return seed


def _state(request: pytest.FixtureRequest, store: str) -> str:
    if store == "sqlite":
        return ""
    fixture, query = SERVERS[store]
    return f"{request.getfixturevalue(fixture).url}?{query}="


@pytest.mark.timeout(300)
async def test_a_hundred_conversations_survive_killed_hosts(amqp_url: str, tmp_path: Path) -> None:
    check(await Talks(amqp_url, tmp_path, _seed()).run(conversations=100, kills=2, timeout=240))


@pytest.mark.full
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("store", ["sqlite", *SERVERS])
async def test_a_thousand_conversations_survive_killed_hosts(
    amqp_url: str, tmp_path: Path, request: pytest.FixtureRequest, store: str
) -> None:
    talks = Talks(amqp_url, tmp_path, _seed(), state=_state(request, store))
    check(await talks.run(conversations=1000, kills=12, timeout=1400))


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", SERVERS)
async def test_three_replicas_that_start_together_on_a_thousand_open_steps_repeat_no_finished_call(
    amqp_url: str, tmp_path: Path, request: pytest.FixtureRequest, store: str
) -> None:
    talks = Talks(amqp_url, tmp_path, _seed(), state=_state(request, store))
    check(await talks.run(conversations=1000, kills=0, timeout=800, together=3))


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", SERVERS)
async def test_conversations_survive_killed_hosts_a_killed_broker_and_a_killed_server_of_state(
    tmp_path: Path, request: pytest.FixtureRequest, store: str
) -> None:
    state = request.getfixturevalue(SERVERS[store][0])
    broker = RabbitNode()
    broker.start()

    def restart_broker() -> None:
        broker.remember_queues()
        broker.restart()

    try:
        talks = Talks(broker.url, tmp_path, _seed(), state=_state(request, store))
        servers = (state.restart, restart_broker)
        check(await talks.run(conversations=200, kills=10, timeout=800, servers=servers))
    finally:
        broker.stop()


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", SERVERS)
async def test_two_replicas_with_one_slot_never_make_two_calls_at_once(
    amqp_url: str, tmp_path: Path, request: pytest.FixtureRequest, store: str
) -> None:
    slots = "[backends.scripted]\nslots = 1\n"
    talks = Talks(amqp_url, tmp_path, _seed(), state=_state(request, store), settings=slots, thinks=0.02)
    outcome = await talks.run(conversations=20, kills=2, timeout=500)
    check(outcome)
    assert most_at_once(outcome) == 1


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", SERVERS)
async def test_without_slots_two_replicas_make_calls_at_once(
    amqp_url: str, tmp_path: Path, request: pytest.FixtureRequest, store: str
) -> None:
    outcome = await Talks(amqp_url, tmp_path, _seed(), state=_state(request, store), thinks=0.02).run(
        conversations=20, kills=0, timeout=500
    )
    check(outcome)
    assert most_at_once(outcome) > 1


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", SERVERS)
async def test_fifty_turns_on_two_replicas_keep_one_limit_of_the_day(
    amqp_url: str, tmp_path: Path, request: pytest.FixtureRequest, store: str
) -> None:
    limit, most = 301, TOKENS + 1
    settings = (
        f"[agents.assistant]\nmax_output_tokens = {most}\n"
        '[prices.models."scripted/demo"]\ninput = 0\noutput = 1_000_000\n'
        f"[limits.all]\nmoney = {limit}\n"
    )
    talks = Talks(amqp_url, tmp_path, _seed(), state=_state(request, store), settings=settings)
    outcome = await talks.run(conversations=50, kills=2, timeout=500, calls=limit // TOKENS)
    check_calls(outcome)
    answers = [answer for each in outcome.answers.values() for answer in each.values()]
    assert len(answers) == 50
    spent = sum(answer.cost or 0 for answer in answers)
    made = {line["call"] for line in outcome.trace if line["what"] == "model"}
    # No call begins that might not fit; what a killed host had reserved goes to whoever makes its call again.
    assert limit - most < spent == len(made) * TOKENS <= limit
    for answer in answers:
        if answer.model_calls <= ERRANDS:
            assert answer.status == "failed"
            assert answer.error is not None
            assert answer.error.code == "limit"
            assert "limits.all.money" in answer.error.message
        else:
            assert answer.status == "completed"
