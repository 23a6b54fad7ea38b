"""Servers that several areas of the suite use; each starts on first use."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

# The suite starts hundreds of processes; what is compiled once need not be compiled by each of them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell that starts the suite behind itself has it ignore Ctrl-C, and what the suite starts would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine must not fail a property for being slow.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")

pytest_plugins = ["nodes.postgres", "nodes.rabbitmq", "nodes.redis"]


def pytest_collection_finish() -> None:
    """What was collected stays; looking through it again and again is for nothing."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def nothing_left_behind() -> Iterator[None]:
    """What a module leaves to the garbage collector, like a socket that nobody closed, fails this module and no other."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def logging_as_found() -> Iterator[None]:
    """What a test sets up in the process's logging is gone after it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: item.level for name, item in root.manager.loggerDict.items() if isinstance(item, logging.Logger)}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, item in root.manager.loggerDict.items():
        if isinstance(item, logging.Logger):
            item.setLevel(levels.get(name, logging.NOTSET))
