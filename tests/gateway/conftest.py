from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from gateway.fake_agent import FakeHost, fake_host, served_host

from rockbot.gateway.client import SocketOperator
from rockbot.operator import Operator


@pytest.fixture(params=["bus", "socket"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def host() -> AsyncIterator[FakeHost]:
    """A host with its gateway."""
    async with served_host() as host:
        yield host


@pytest.fixture
async def operated(way: str) -> AsyncIterator[FakeHost]:
    """A host, with its gateway when that is the way in."""
    async with (served_host if way == "socket" else fake_host)() as host:
        yield host


@pytest.fixture
async def operator(way: str, operated: FakeHost) -> AsyncIterator[Operator]:
    """The same operator, near and far: every test of it is passed by both."""
    operator = SocketOperator(operated.socket) if way == "socket" else operated.operator
    yield operator
    await operator.close()
