"""Hosts, connections and brokers end at random while messages flow: every one is handled or dead, every effect is there once.

The small size runs in every suite on one node; ``make chaos`` runs the full one on a cluster of three.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.storm import Storm, check
from nodes.cluster import RabbitCluster
from nodes.rabbitmq import RabbitNode

pytestmark = [pytest.mark.alone, pytest.mark.rabbitmq, pytest.mark.crash]


def _seed() -> int:
    seed = int(os.environ.get("ROCKBOT_TEST_SEED", "0")) or random.randrange(1, 2**32)
    print(f"seed {seed} (ROCKBOT_TEST_SEED repeats it)")
    return seed


@pytest.fixture
def node() -> Iterator[RabbitNode]:
    node = RabbitNode()
    node.start()
    yield node
    node.stop()


@pytest.fixture
def cluster() -> Iterator[RabbitCluster]:
    cluster = RabbitCluster()
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.mark.timeout(300)
async def test_two_thousand_messages_survive_killed_hosts_cut_connections_and_a_killed_broker(
    node: RabbitNode, tmp_path: Path
) -> None:
    async def kill_broker() -> None:
        await asyncio.to_thread(node.remember_queues)
        await asyncio.to_thread(node.restart)

    storm = Storm(node.url, tmp_path, _seed(), accidents={"broker killed": kill_broker})
    check(await storm.run(messages=2000, publishers=4, hosts=3, accidents=6, timeout=240))


@pytest.mark.full
@pytest.mark.timeout(1800)
async def test_twenty_thousand_messages_survive_killed_hosts_and_killed_members_of_a_cluster(
    cluster: RabbitCluster, tmp_path: Path
) -> None:
    pick = random.Random(_seed())

    async def kill_member() -> None:
        member = pick.choice(cluster.members)
        await asyncio.to_thread(member.kill)
        await asyncio.to_thread(cluster.restart, member)

    async def kill_leader() -> None:
        member = await asyncio.to_thread(cluster.leader_of, f"{storm.namespace}.chaos-work")
        if member is not None:
            await asyncio.to_thread(member.kill)
            await asyncio.to_thread(cluster.restart, member)

    storm = Storm(
        cluster.url,
        tmp_path,
        pick.randrange(1, 2**32),
        accidents={"member killed": kill_member, "leader killed": kill_leader},
    )
    check(await storm.run(messages=20_000, publishers=4, hosts=3, accidents=30, timeout=1700))
