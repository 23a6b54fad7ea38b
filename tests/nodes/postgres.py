"""A PostgreSQL server that belongs to the test session alone: own folder, own port of 127.0.0.1, killed without asking."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

import pytest

from .launching import free_port, gone, kill, launch, look_at, processes

MISSING: Final = "these tests need a PostgreSQL server and found none: run `apt-get install postgresql`"
_START_SECONDS: Final = 60.0
PASSWORD: Final = "not-for-the-log"
# What a client says first when it asks for TLS; a server that is up answers with one letter.
_HELLO: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


def programs() -> Path | None:
    """The folder of the newest installed server's programs."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda folder: float(folder.parent.name))
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


@final
class PostgresNode:
    """One private server. `start` after `kill` finds everything that was stored.

    `tls` is a folder with what `certificates` made: then it takes no connection without TLS and a client's certificate.
    """

    def __init__(self, *, tls: Path | None = None) -> None:
        self._tls = tls is not None
        found = programs()
        if found is None:
            raise RuntimeError(MISSING)
        self._programs = found
        self._home = Path(tempfile.mkdtemp(prefix="rockbot-postgres-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        # The server refuses to run as root.
        self._as: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self._home, "postgres", "postgres")
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "HOME": str(self._home)}
        password = self._home / "password"
        password.write_text(PASSWORD)
        arguments = ["--no-sync", "--username=rockbot", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
        subprocess.run(
            [*self._as, str(found / "initdb"), *arguments, f"--pwfile={password}", f"--pgdata={self._home / 'data'}"],
            check=True,
            env=self._env,
            cwd=self._home,
            stdout=subprocess.DEVNULL,
        )
        if tls is not None:
            for name in ("ca.pem", "server.pem", "server.key"):
                file = self._home / name
                shutil.copy(tls / name, file)
                file.chmod(0o600)
                if self._as:
                    shutil.chown(file, "postgres", "postgres")
            (self._home / "data" / "pg_hba.conf").write_text(
                "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n"
            )

    @property
    def url(self) -> str:
        return self.url_of("rockbot", PASSWORD)

    def url_of(self, user: str, password: str) -> str:
        """The server's address for another user."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server and wait until it talks."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "max_connections": "60",
            # A server whose administrator preferred speed: the store must not.
            "synchronous_commit": "off",
        }
        if self._tls:
            settings |= {"ssl": "on", "ssl_ca_file": str(self._home / "ca.pem")}
            settings |= {
                f"ssl_{name}_file": str(self._home / f"server.{end}") for name, end in (("cert", "pem"), ("key", "key"))
            }
        command = [*self._as, str(self._programs / "postgres"), "-D", str(self._home / "data")]
        command += [f"--{name}={value}" for name, value in settings.items()]
        self._process = launch(command, env=self._env, cwd=self._home, console=self._home / "console.log")
        deadline = time.monotonic() + _START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self._home / "console.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the private PostgreSQL server did not start:\n{tail}")
            time.sleep(0.02)

    def _ready(self) -> bool:
        status = self._home / "data" / "postmaster.pid"
        # While it recovers it listens and refuses; its own status file says when that is over.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as peer:
            peer.sendall(_HELLO)
            return peer.recv(1) in (b"N", b"S") and status.read_text().rstrip().endswith("ready")
        return False

    def kill(self) -> None:
        """SIGKILL to all its processes, as a power cut would do it."""
        if self._process is None:
            return
        status = self._home / "data" / "postmaster.pid"
        children: list[int] = []
        with contextlib.suppress(OSError, ValueError):
            # Each connection has a process in a group of its own; stopped first, the server starts no further ones.
            server = int(status.read_text().split()[0])
            os.kill(server, signal.SIGSTOP)
            while (found := look_at(server)) is not None and found.state != "T":
                time.sleep(0.002)
            children = [one.pid for one in processes() if one.parent == server]
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        kill(self._process)
        # A server that starts while one of them still holds its memory gives up.
        gone(children)
        self._process = None
        # Nobody is left, but the next server cannot know whose process id that is now.
        status.unlink(missing_ok=True)

    def restart(self) -> None:
        """Kill and start again on the same port and files."""
        self.kill()
        self.start()

    def remove(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresNode]:
    """One server for the session; tests that kill it start it again."""
    node = PostgresNode()
    try:
        node.start()
        yield node
    finally:
        node.remove()
