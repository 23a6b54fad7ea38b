"""The conformance suite against a real broker."""

from __future__ import annotations

import pytest

from rockbot_messaging.testing.contract import BusContract


@pytest.mark.rabbitmq
class TestRabbitMQ(BusContract):
    """The harness comes from this folder's conftest."""
