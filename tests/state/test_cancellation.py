"""A cancellation is kept, whatever the call inside makes of it."""

from __future__ import annotations

import asyncio

import pytest

from rockbot.state.cancellation import KeptCancellation


async def test_a_cancellation_that_a_call_swallows_comes_out_of_it() -> None:
    async def swallow(*, then: type[Exception] | None) -> None:
        with KeptCancellation():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if then is not None:
                    raise then from None

    for then in (None, RuntimeError):
        task = asyncio.create_task(swallow(then=then))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_what_was_cancelled_before_may_still_clean_up() -> None:
    done = []

    async def clean() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            with KeptCancellation():
                await asyncio.sleep(0)
                done.append(True)

    task = asyncio.create_task(clean())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]


async def test_errors_and_time_limits_pass_unchanged() -> None:
    with pytest.raises(KeyError), KeptCancellation():
        raise KeyError
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            with KeptCancellation():
                await asyncio.sleep(60)
