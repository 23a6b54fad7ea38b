"""What other services import costs them nothing they do not use."""

from __future__ import annotations

import subprocess
import sys

import pytest


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
