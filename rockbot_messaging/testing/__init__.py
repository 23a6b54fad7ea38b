"""Public test doubles, and the conformance suite that every provider of messaging passes.

To prove a provider of your own, write a `Harness` for it and subclass the suite in a test module (pytest and
pytest-asyncio in auto mode are needed)::

    import pytest
    from rockbot_messaging.testing.contract import BusContract

    class TestMyBus(BusContract):
        @pytest.fixture
        async def harness(self):
            harness = MyHarness()
            yield harness
            await harness.close()

Each case asks for a fresh broker (a fresh namespace will do). Importing this package does not load pytest;
`rockbot_messaging.testing.contract` does.
"""

from __future__ import annotations

from rockbot_messaging.testing.clock import FakeClock
from rockbot_messaging.testing.harness import Features, Harness
from rockbot_messaging.testing.ids import SequenceIds
from rockbot_messaging.testing.recorder import Recorder

__all__ = ["FakeClock", "Features", "Harness", "Recorder", "SequenceIds"]
