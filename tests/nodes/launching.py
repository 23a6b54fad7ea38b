"""Starting and killing servers for tests, whatever they are."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
