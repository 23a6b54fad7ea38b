"""Images are built once; a container of a broker is taken where its image is here, else the private node."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from images.engine import DEFAULT_BASE, ROOT, Engine, NoEngine

_BROKER = "rabbitmq:4.3-management"


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine, with all images built."""
    base = os.environ.get("PYTHON_IMAGE", DEFAULT_BASE)
    try:
        engine = Engine()
        engine.fetch(base)
    except NoEngine as missing:
        pytest.exit(str(missing), returncode=1)
    engine.build(base)
    if engine.has(_BROKER):
        os.environ.setdefault("ROCKBOT_TEST_DOCKER", "1")
    return engine


@pytest.fixture(scope="session")
def version() -> str:
    """The images' tag."""
    found = re.search(r"^VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder with a short name: the path of a socket has 108 bytes at most."""
    with TemporaryDirectory(prefix="rockbot-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
