"""Servers that several areas of the suite use; each starts on first use."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["nodes.rabbitmq"]
