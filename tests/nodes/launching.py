"""Starting and killing servers for tests, whatever they are."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

#: Where ports are taken from: below those that the kernel lends to clients and to servers that do not care.
_PORTS: Final = range(18_000, 32_000)
#: What marks a port as this process's: gone with the process, also when that is killed.
_taken: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that nobody else who asks here is given while this process lives.

    A server may be down for a while and find its port free: no client and no other server is lent it meanwhile.
    """
    while True:
        port = random.SystemRandom().choice(_PORTS)  # whoever repeats a run by its seed repeats no ports
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0rockbot-tests-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _taken.append(mark)
        return port


def launch(command: list[str], *, env: dict[str, str], cwd: Path, console: Path) -> subprocess.Popen[bytes]:
    """Start a server in a process group of its own that ends with this process, also when that is killed."""
    with console.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("guard.py")), *command],
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to everything that `launch` started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
