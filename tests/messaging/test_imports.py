"""What other services import costs them nothing they do not use."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest

import rockbot_messaging
from rockbot_messaging.composing import FurtherFields
from rockbot_messaging.connecting import BusOptions, bus_at
from rockbot_messaging.requests import TimedOut


@pytest.mark.parametrize("module", ["rockbot_messaging", "rockbot_messaging.memory", "rockbot_messaging.testing"])
def test_importing_loads_the_standard_library_alone(module: str) -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        f"import {module}\n"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(tops - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['rockbot_messaging']"


def test_importing_the_package_loads_no_provider() -> None:
    program = (
        "import sys, rockbot_messaging; print([name for name in sys.modules if 'sqlite' in name or 'asyncio' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_what_a_publisher_has_to_catch_comes_from_the_package_itself() -> None:
    for name in ("BrokerUnreachable", "NotConfirmed", "TimedOut", "Unroutable", "BodyTooLarge", "InvalidTopic"):
        assert issubclass(getattr(rockbot_messaging, name), rockbot_messaging.MessagingError)
    assert TimedOut is rockbot_messaging.TimedOut, "requests raise what callers catch"


def test_typed_options_are_exactly_what_is_taken() -> None:
    taken = inspect.signature(bus_at).parameters
    assert set(BusOptions.__annotations__) == set(taken) - {"url"}
    fields = {field.name for field in dataclasses.fields(rockbot_messaging.MessageEnvelope)}
    named = set(inspect.signature(rockbot_messaging.outgoing).parameters)
    received = {
        "schema_version",
        "attempt",
        "handbacks",
        "due_ms",
        "first_failed_ms",
        "user_id",
        "redelivered",
        "returns",
    }
    theirs = {"claim", "signature", "foreign_id", "history", "timestamp_ms"}
    assert set(FurtherFields.__annotations__) == fields - named - received - theirs
