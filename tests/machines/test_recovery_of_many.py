"""Three replicas that start together on a thousand open rows; on servers of state, see tests/state."""

from __future__ import annotations

from machines.many_rows import three_replicas_start

from rockbot.state.ports import StateStore
from rockbot_messaging.testing import FakeClock


async def test_three_replicas_on_a_thousand_open_rows_send_each_at_most_twice(
    store: StateStore, clock: FakeClock
) -> None:
    async def advance(seconds: float) -> None:
        clock.advance(seconds)

    await three_replicas_start([store] * 3, advance)
