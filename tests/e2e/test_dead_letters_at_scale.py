"""Many dead letters, as an operator meets them: commands as processes of their own over a broker, hosts beside them.

The ledger says at the end what arrived and what came of it; figures are printed (``pytest -s``). Limits are seconds of CPU
where other work on the same machine would count against us.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from e2e.processes import running
from e2e.shop import ORDERS, Ran, Shop, bury_orders

from rockbot_messaging.rabbitmq import RabbitBus

pytestmark = [pytest.mark.alone, pytest.mark.rabbitmq, pytest.mark.crash]

SIZES = [
    pytest.param(2_000, marks=pytest.mark.timeout(300)),
    pytest.param(100_000, marks=[pytest.mark.full, pytest.mark.timeout(2400)]),
]
#: Seconds for a question, start of the process included: on the wall of a quiet machine, or of CPU on one whose caches and cores
#: others use too.
QUESTION, BUSY_QUESTION = 2.0, 4.0
#: Seconds for the first comparison, megabytes of any command.
SCAN, MEMORY = 60.0, 200.0


@pytest.fixture
def shop(tmp_path: Path, amqp_url: str) -> Shop:
    return Shop(tmp_path, amqp_url)


@pytest.mark.parametrize("count", SIZES)
async def test_many_letters_are_looked_through_and_sent_on_in_time_and_in_little_memory(shop: Shop, count: int) -> None:
    bus = await _opened(shop)
    await bury_orders(bus, count)

    async def ask(*arguments: str) -> list[dict[str, Any]]:
        ran = await shop.run("--json", *arguments)
        assert ran.code == 0, ran.err
        _tell(count, " ".join(arguments)[:60], ran)
        assert ran.seconds < QUESTION or ran.cpu < BUSY_QUESTION
        return _lines(ran)

    scanned = await shop.run("--json", "dlq", "scan", timeout=600)
    _tell(count, "first comparison", scanned)
    assert (scanned.code, _lines(scanned)[-1]["worked"]) == (0, count), scanned.err
    assert min(scanned.seconds, scanned.cpu) < SCAN
    if scanned.seconds > 15:
        assert '"done":false' in scanned.err, "who waits is told how far it is"
    assert len(await ask("dlq", "list")) == 50
    groups = await ask("dlq", "groups")
    assert [group["count"] for group in groups] == [count // 5] * 5
    assert {row["error_type"] for row in await ask("dlq", "list", "--error", "KeyError")} == {"KeyError"}
    assert len(await ask("dlq", "list", "--text", "no items", "--newest")) == 50
    assert len(await ask("dlq", "list", "--group", groups[0]["id"], "--limit", "1000")) == min(1000, count // 5)
    first = await shop.run("dlq", "list", "--limit", "100")
    following = await ask("dlq", "list", "--limit", "100", "--after", first.err.split("--after ")[1].split()[0])
    assert [row["id"] for row in following] == [f"{number:08}-order" for number in range(100, 200)]

    replayed = await shop.run("--json", "dlq", "replay", "orders", "--all", timeout=600)
    _tell(count, "send all on", replayed)
    last = _lines(replayed)[-1]
    assert (replayed.code, last["worked"], last["refusals"]) == (0, count, 0), replayed.err
    assert max(scanned.megabytes, replayed.megabytes) < MEMORY
    assert await shop.waiting() == count
    async with running("run", until="host consumes", env=shop.env, cwd=shop.folder):
        copies, sold = await _settled(shop, count)
    await bus.close()
    assert (copies, set(sold.values())) == (0, {1})


@pytest.mark.parametrize("count", SIZES)
async def test_a_replay_that_is_killed_again_and_again_loses_nothing_and_sells_nothing_twice(
    shop: Shop, count: int
) -> None:
    bus = await _opened(shop)
    await bury_orders(bus, count)
    chance, each = random.Random(count), count
    killed = 0
    async with running("run", until="host consumes", env=shop.env, cwd=shop.folder):
        for number in range(10):
            if number >= 5 and killed >= 3:
                break
            if not await bus.dead_letters.letters("orders", limit=1):
                # This machine did not look for so long that all were sent: there must be more to be killed over.
                await bury_orders(bus, each, first=count)
                count += each
            target = shop.arrived + chance.randrange(1, each // 6)
            process = shop.start("dlq", "replay", "orders", "--all")
            while process.poll() is None and shop.arrived < target:
                await asyncio.sleep(0.002)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            await asyncio.to_thread(process.wait)
        finished = await shop.run("--json", "dlq", "replay", "orders", "--all", timeout=600)
        assert finished.code == 0, finished.err
        copies, sold = await _settled(shop, count)
    print(f"{count} letters, {killed} kills: {len(sold)} sold once each, {copies} copies arrived besides")
    assert killed >= 3
    assert set(sold.values()) == {1}
    assert set(sold) == {f"{number:08}-order" for number in range(count)}
    left = await bus.dead_letters.letters("orders", limit=1)
    await bus.close()
    assert not left
    # A kill can repeat the batch in hand, never more.
    assert copies <= killed * 200


@pytest.mark.parametrize("count", SIZES)
async def test_two_operators_who_send_the_same_letters_on_take_turns(shop: Shop, count: int) -> None:
    bus = await _opened(shop)
    await bury_orders(bus, count)
    async with running("run", until="host consumes", env=shop.env, cwd=shop.folder):
        replays = [
            shop.run("--json", "dlq", "replay", "orders", "--all", timeout=600, ROCKBOT_LETTERS__WAIT_SECONDS=wait)
            for wait in ("600", "600")
        ]
        ran = await asyncio.gather(*replays)
        assert [each.code for each in ran] == [0, 0], [each.err for each in ran]
        assert sum(_lines(each)[-1]["worked"] for each in ran) == count
        copies, sold = await _settled(shop, count)
    await bus.close()
    print(f"{count} letters, two operators: {[_lines(each)[-1]['worked'] for each in ran]}, {copies} copies")
    assert (copies, set(sold.values()), len(sold)) == (0, {1}, count)


async def test_who_will_not_wait_is_told_who_is_at_work(shop: Shop) -> None:
    bus = await _opened(shop)
    await bury_orders(bus, 400)
    assert (await shop.run("dlq", "scan")).code == 0
    slow = shop.start("dlq", "replay", "orders", "--all", "--rate", "2")
    try:
        async with asyncio.timeout(60):
            while not await shop.waiting():
                await asyncio.sleep(0.02)
        ran = await shop.run("--json", "dlq", "replay", "orders", "--all", ROCKBOT_LETTERS__WAIT_SECONDS="0.2")
        assert ran.code == 1
        error = json.loads(ran.err.splitlines()[-1])["error"]
        assert error["code"] == "letters_busy"
        assert "At work there: replay by " in error["message"]
        # Whoever was refused has not made the other one's mark go away.
        listed = await shop.run("--json", "dlq", "list", "--limit", "1", ROCKBOT_LETTERS__WAIT_SECONDS="0.2")
        assert (listed.code, len(_lines(listed))) == (0, 1), listed.err
    finally:
        slow.kill()
        await asyncio.to_thread(slow.wait)
        await bus.close()


# -- pieces ------------------------------------------------------------------------------------------------------------


async def _opened(shop: Shop) -> RabbitBus:
    bus = shop.bus()
    await bus.open()
    await bus.declare([ORDERS])
    return bus


async def _settled(shop: Shop, count: int) -> tuple[int, dict[str, int]]:
    """Copies that arrived, and how often each order was sold, once every order was."""
    async with asyncio.timeout(60 + count / 50):
        while shop.arrived < count:
            await asyncio.sleep(0.1)
        while len(sold := await shop.sold()) < count:
            await asyncio.sleep(0.1)
    return shop.arrivals().total() - len(shop.arrivals()), sold


def _lines(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def _tell(count: int, what: str, ran: Ran) -> None:
    print(
        f"{count} letters, {what}: {ran.seconds:.2f} s, {ran.cpu:.2f} s of CPU, {ran.megabytes:.0f} MB"
        f" ({count / ran.seconds:.0f}/s)"
    )
