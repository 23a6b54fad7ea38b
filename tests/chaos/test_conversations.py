"""Conversations by the hundred over two replicas that are killed at random: all end, each in its order, none of it twice.

The small size runs in every suite; ``make chaos`` runs a thousand.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.talks import Talks, check
from nodes.rabbitmq import RabbitNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.crash]


@pytest.fixture
def node() -> Iterator[RabbitNode]:
    node = RabbitNode()
    node.start()
    yield node
    node.stop()


def _seed() -> int:
    seed = int(os.environ.get("ROCKBOT_TEST_SEED", "0")) or random.randrange(1, 2**32)
    print(f"seed {seed} (ROCKBOT_TEST_SEED repeats it)")
    return seed


@pytest.mark.timeout(300)
async def test_a_hundred_conversations_survive_killed_hosts(node: RabbitNode, tmp_path: Path) -> None:
    check(await Talks(node.url, tmp_path, _seed()).run(conversations=100, kills=2, timeout=240))


@pytest.mark.full
@pytest.mark.timeout(1500)
async def test_a_thousand_conversations_survive_killed_hosts(node: RabbitNode, tmp_path: Path) -> None:
    check(await Talks(node.url, tmp_path, _seed()).run(conversations=1000, kills=12, timeout=1400))
