"""A rolling update to the next release, under load: no task is lost, no effect happens twice, and it says how long answers took.

Fifty tasks a second run in every suite; ``make chaos`` runs two hundred.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.rollout import Rollout, check

pytestmark = [pytest.mark.alone, pytest.mark.rabbitmq]


async def test_two_replicas_are_replaced_by_the_next_release_under_fifty_tasks_a_second(
    amqp_url: str, tmp_path: Path
) -> None:
    check(await Rollout(amqp_url, tmp_path).run(rate=50, timeout=240))


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_two_replicas_are_replaced_by_the_next_release_under_two_hundred_tasks_a_second(
    amqp_url: str, tmp_path: Path
) -> None:
    check(await Rollout(amqp_url, tmp_path).run(rate=200, timeout=500))
