"""An event-driven agent host: the loop lives in the broker.

Nothing is imported here, so that other services can use `rockbot.events` without the engine.
"""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
