"""A long action is asked for one result after the other, and ends between two of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from rockbot.gateway.actions import Actions


class Stream:
    """Counts; says how far it came and whether it was closed."""

    def __init__(self) -> None:
        self.at = 0
        self.closed = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, count: int) -> AsyncIterator[int]:
        try:
            for number in range(count):
                await self.gate.wait()
                self.at = number + 1
                yield number
        finally:
            self.closed.set()


async def test_results_come_in_order_and_the_stream_is_closed() -> None:
    actions, stream = Actions(), Stream()
    assert [item async for item in actions.follow(stream(3), pulse=60)] == [0, 1, 2]
    assert stream.closed.is_set()
    async with asyncio.timeout(60):
        while actions.running:
            await asyncio.sleep(0)


async def test_nothing_is_done_before_it_is_asked_for() -> None:
    actions, stream = Actions(), Stream()
    following: Any = actions.follow(stream(100), pulse=60)
    async with aclosing(following):
        await anext(following)
        for _ in range(20):
            await asyncio.sleep(0)
        assert stream.at == 1
    await asyncio.wait_for(stream.closed.wait(), 60)
    assert stream.at == 1


async def test_who_is_cancelled_in_the_middle_leaves_the_step_whole() -> None:
    actions, stream = Actions(), Stream()

    async def follow() -> None:
        async for _ in actions.follow(stream(100), pulse=60):
            stream.gate.clear()

    follower = asyncio.create_task(follow())
    async with asyncio.timeout(60):
        while stream.gate.is_set():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        follower.cancel()
        with pytest.raises(asyncio.CancelledError):
            await follower
        assert actions.running == 1
        stream.gate.set()
        await stream.closed.wait()
    assert stream.at == 2


async def test_a_step_that_takes_long_shows_that_it_lives() -> None:
    actions, stream = Actions(), Stream()
    stream.gate.clear()
    following: Any = actions.follow(stream(1), pulse=0.01)
    async with aclosing(following):
        assert await anext(following) is None
        stream.gate.set()
        async with asyncio.timeout(60):
            while (item := await anext(following)) is None:
                pass
        assert item == 0


async def test_an_error_reaches_who_follows() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("broken")

    following: Any = Actions().follow(broken(), pulse=60)
    assert await anext(following) == 1
    with pytest.raises(ValueError, match="broken"):
        await anext(following)


async def test_a_host_that_stops_lets_the_batch_in_hand_be_finished() -> None:
    actions, stream = Actions(), Stream()

    async def follow() -> None:
        async for _ in actions.follow(stream(100), pulse=60):
            stream.gate.clear()

    follower = asyncio.create_task(follow())
    async with asyncio.timeout(60):
        while stream.gate.is_set():
            await asyncio.sleep(0)
        follower.cancel()
        with pytest.raises(asyncio.CancelledError):
            await follower
        closing = asyncio.create_task(actions.close())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not closing.done()
        stream.gate.set()
        await closing
    assert actions.running == 0
    assert stream.closed.is_set()
    await actions.close()
