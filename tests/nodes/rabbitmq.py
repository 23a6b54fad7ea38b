"""A RabbitMQ node that belongs to the test session alone: own directories, own ports, own Erlang port mapper.

Nothing of it is shared with a broker of the machine, it listens on 127.0.0.1 only, and it can be killed without asking.
`ROCKBOT_TEST_AMQP_URL` names a server to use instead; `ROCKBOT_TEST_DOCKER=1` takes one from a container. Tests that
must kill or restart the broker need the private node and say so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import pytest

_MISSING = (
    "these tests need a RabbitMQ server and found none: run `apt-get install rabbitmq-server` (the suite starts its own "
    "private node), or set ROCKBOT_TEST_AMQP_URL, or ROCKBOT_TEST_DOCKER=1 where a Docker engine answers"
)
_START_SECONDS = 90.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _installation() -> Path | None:
    """The sbin folder of the newest installed server; the distribution's wrapper insists on system paths."""
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if found:
        return found[-1].parent
    server = shutil.which("rabbitmq-server")
    return Path(server).resolve().parent if server else None


def _port_mapper() -> str:
    found = shutil.which("epmd") or next(map(str, Path("/usr/lib/erlang").glob("erts-*/bin/epmd")), None)
    if found is None:
        raise RuntimeError(_MISSING)
    return found


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@final
class RabbitNode:
    """One private node. `start` after `kill` finds everything that was stored."""

    def __init__(self, *, extra_config: str = "") -> None:
        sbin = _installation()
        if sbin is None:
            raise RuntimeError(_MISSING)
        self._sbin = sbin
        self._extra_config = extra_config
        self._home = Path(tempfile.mkdtemp(prefix="rockbot-rabbit-"))
        self.port = free_port()
        self.name = f"rb{self.port}@localhost"
        self._mapper_port = free_port()
        self._env = self._environment(self._mapper_port, free_port())
        self._mapper: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def _environment(self, epmd: int, dist: int) -> dict[str, str]:
        home = self._home
        cookie = home / ".erlang.cookie"
        cookie.write_text(f"ROCKBOT{self.port}")
        cookie.chmod(0o400)
        (home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "loopback_users = none\n"
            "vm_memory_high_watermark.absolute = 512MB\n"
            "disk_free_limit.absolute = 50MB\n" + self._extra_config
        )
        (home / "enabled_plugins").write_text("[].\n")
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "generated"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CTL_DIST_PORT_MIN": "35672",
            "RABBITMQ_CTL_DIST_PORT_MAX": "45672",
        }

    def start(self) -> None:
        """Start the server and wait until it accepts AMQP."""
        if self._mapper is None:
            # Left to itself, Erlang starts a port mapper that outlives everything; ours is a child and dies with `stop`.
            self._mapper = subprocess.Popen(
                [_port_mapper(), "-port", str(self._mapper_port), "-address", "127.0.0.1"],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self._wait(lambda: _listens(self._mapper_port), self._mapper)
        with (self._home / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [str(self._sbin / "rabbitmq-server")],
                env=self._env,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait(self._greets, self._process)

    def _wait(self, ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                console = self._home / "console.log"
                tail = console.read_text(errors="replace")[-2000:] if console.exists() else "no port mapper"
                raise RuntimeError(f"the private RabbitMQ node did not start:\n{tail}")
            time.sleep(0.05)

    def _greets(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as peer:
            peer.sendall(b"AMQP\x00\x00\x09\x01")
            return bool(peer.recv(1))
        return False

    def kill(self) -> None:
        """SIGKILL, as a power cut would do it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill and start again on the same port and files."""
        self.kill()
        self.start()

    def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` against this node; returns what it printed."""
        done = subprocess.run(
            [str(self._sbin / "rabbitmqctl"), "--quiet", *arguments],
            env=self._env,
            cwd=self._home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def remember_queues(self) -> None:
        """Have the node write its registry of quorum queues now.

        3.10 writes it lazily, and a queue declared just before a SIGKILL comes back empty and without a leader; queues
        of a broker that has been up for a while are not affected.
        """
        self.ctl("eval", "[dets:sync(Table) || Table <- dets:all()].")

    def stop(self) -> None:
        """Kill the server and its port mapper, remove its files."""
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()
            self._mapper = None
        shutil.rmtree(self._home, ignore_errors=True)


@pytest.fixture(scope="session")
def rabbit_node() -> Iterator[RabbitNode]:
    """The session's private node, for tests that kill it, restart it or ask `rabbitmqctl`."""
    node = RabbitNode()
    node.start()
    yield node
    node.stop()


@pytest.fixture(scope="session")
def amqp_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the session's broker listens; tests keep apart by namespace."""
    given = os.environ.get("ROCKBOT_TEST_AMQP_URL")
    if given:
        yield given
    elif os.environ.get("ROCKBOT_TEST_DOCKER") == "1":
        with _container() as url:
            yield url
    else:
        yield request.getfixturevalue("rabbit_node").url


@contextlib.contextmanager
def _container() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    server: Any = DockerContainer("rabbitmq:4.3-management").with_exposed_ports(5672)
    with server:
        wait_for_logs(server, "Server startup complete", timeout=_START_SECONDS)
        yield f"amqp://guest:guest@{server.get_container_host_ip()}:{server.get_exposed_port(5672)}/"
