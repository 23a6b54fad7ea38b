"""dependency-injector, without the web frameworks that it would load on the way.

It imports FastAPI, Flask and their like where they are installed, to inject into their routes; we inject into none, and
FastAPI alone takes longer to import than everything that a command needs.
"""

from __future__ import annotations

import sys
from typing import Final

_FRAMEWORKS: Final = ("fastapi", "starlette", "flask", "werkzeug")

_hidden: Final = [name for name in _FRAMEWORKS if name not in sys.modules]
for _name in _hidden:
    sys.modules[_name] = None  # type: ignore[assignment]  # what cannot be imported
try:
    from dependency_injector import containers, providers
finally:
    for _name in _hidden:
        del sys.modules[_name]

__all__ = ["containers", "providers"]
