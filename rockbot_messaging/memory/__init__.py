"""The in-memory provider: RabbitMQ's semantics as this package uses them, without RabbitMQ.

`MemoryBus` alone loses everything with its process; with a `SqliteBusStorage` accepted, delayed and dead messages survive
``kill -9``.
"""

from __future__ import annotations

from rockbot_messaging.memory.broker import MemoryBroker
from rockbot_messaging.memory.bus import MemoryBus
from rockbot_messaging.memory.sqlite import SqliteBusStorage
from rockbot_messaging.memory.storage import BusStorage

__all__ = ["BusStorage", "MemoryBroker", "MemoryBus", "SqliteBusStorage"]
