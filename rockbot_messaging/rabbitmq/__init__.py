"""The RabbitMQ provider: `RabbitBus` with its `RabbitSettings`. Needs the `rabbitmq` extra."""

from __future__ import annotations

from rockbot_messaging.rabbitmq.bus import RabbitBus
from rockbot_messaging.rabbitmq.settings import RabbitSettings

__all__ = ["RabbitBus", "RabbitSettings"]
