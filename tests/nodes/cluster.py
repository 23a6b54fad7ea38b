"""A cluster of private RabbitMQ nodes on 127.0.0.1, for tests in which members die and others take over.

One Erlang port mapper and one cookie for all; every member has directories and ports of its own and can be killed and
started again by itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import final

from .erlang import MISSING, START_SECONDS, evaluated, greets, installation, listens, port_mapper
from .launching import free_port, kill, launch


@final
class ClusterMember:
    """One node of a cluster."""

    def __init__(self, sbin: Path, home: Path, index: int, mapper_port: int) -> None:
        self.port = free_port()
        self.name = f"rbc{index}-{self.port}@localhost"
        self._sbin = sbin
        self._home = home / f"node{index}"
        self._home.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        cookie = self._home / ".erlang.cookie"
        self._cookie = f"ROCKBOT{mapper_port}"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        (self._home / "enabled_plugins").write_text("[].\n")
        self._env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(self._home),
            "ERL_EPMD_PORT": str(mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_MNESIA_BASE": str(self._home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self._home / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self._home / "generated"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CTL_DIST_PORT_MIN": "35672",
            "RABBITMQ_CTL_DIST_PORT_MAX": "45672",
        }

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def running(self) -> bool:
        """Whether the process was started and has not been killed."""
        return self._process is not None

    def configure(self, members: list[str]) -> None:
        """Write the configuration: its listener, and whom it forms a cluster with."""
        peers = "".join(
            f"cluster_formation.classic_config.nodes.{number} = {name}\n" for number, name in enumerate(members, 1)
        )
        (self._home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "loopback_users = none\n"
            "vm_memory_high_watermark.absolute = 512MB\n"
            "disk_free_limit.absolute = 50MB\n"
            "cluster_formation.peer_discovery_backend = classic_config\n"
            # A member that starts again while the others are down waits for them; tests start them again soon.
            "mnesia_table_loading_retry_timeout = 5000\n"
            "mnesia_table_loading_retry_limit = 24\n" + peers
        )

    def launch(self) -> None:
        """Start the process; `ready` says when it accepts AMQP."""
        server = [str(self._sbin / "rabbitmq-server")]
        self._process = launch(server, env=self._env, cwd=self._home, console=self._home / "console.log")

    def ready(self) -> bool:
        """Whether it accepts AMQP.

        Raises:
            RuntimeError: it ended instead.
        """
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"cluster member {self.name} ended:\n{self.console()[-2000:]}")
        return greets(self.port)

    def console(self) -> str:
        """What the server printed."""
        return (self._home / "console.log").read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, as a power cut would do it."""
        if self._process is not None:
            kill(self._process)
            self._process = None

    def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` against this member; returns what it printed."""
        return self._run("rabbitmqctl", "--quiet", *arguments)

    def evaluate(self, code: str) -> str:
        """Have this member evaluate an Erlang expression; returns what it is, as text."""
        value = evaluated(code, node=self.name, cookie=self._cookie, env=self._env)
        return self.ctl("eval", code).strip() if value is None else value

    def _run(self, tool: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._sbin / tool), *arguments],
            env=self._env,
            cwd=self._home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{tool} {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout


@final
class RabbitCluster:
    """Members that know each other; quorum queues declared here have a replica on each of the first three."""

    def __init__(self, size: int = 3) -> None:
        sbin = installation()
        if sbin is None:
            raise RuntimeError(MISSING)
        self._home = Path(tempfile.mkdtemp(prefix="rockbot-cluster-"))
        self._mapper_port = free_port()
        self._mapper: subprocess.Popen[bytes] | None = None
        self.members = [ClusterMember(sbin, self._home, index, self._mapper_port) for index in range(size)]
        for member in self.members:
            # The first one forms the cluster; told of the others, it would look for them for seconds.
            member.configure(
                [self.members[0].name] if member is self.members[0] else [one.name for one in self.members]
            )

    @property
    def url(self) -> str:
        """One URL that names every member."""
        return f"amqp://guest:guest@{','.join(f'127.0.0.1:{member.port}' for member in self.members)}/"

    def start(self) -> None:
        """Start every member and wait until all of them see each other."""
        command = [port_mapper(), "-port", str(self._mapper_port), "-address", "127.0.0.1"]
        self._mapper = launch(command, env=dict(os.environ), cwd=self._home, console=self._home / "mapper.log")
        _wait(lambda: listens(self._mapper_port))
        # The first one forms the cluster, the others find it.
        self.members[0].launch()
        _wait(self.members[0].ready)
        for member in self.members[1:]:
            member.launch()
        for member in self.members[1:]:
            _wait(member.ready)
        _wait(self._complete)

    def _complete(self) -> bool:
        # Membership is one table that all of them share.
        return self.members[0].evaluate("length(rabbit_nodes:all_running()).") == str(len(self.members))

    def restart(self, member: ClusterMember) -> None:
        """Start a killed member again and wait until it accepts AMQP."""
        member.launch()
        _wait(member.ready)

    def leader_of(self, queue: str) -> ClusterMember | None:
        """The member that leads a quorum queue, as the first running member sees it; None while there is none."""
        witness = next(member for member in self.members if member.running)
        for line in witness.ctl("list_queues", "name", "leader", "--no-table-headers").splitlines():
            name, _, leader = line.partition("\t")
            if name == queue:
                return next((member for member in self.members if member.name == leader.strip()), None)
        return None

    def stop(self) -> None:
        """Kill everything and remove its files."""
        for member in self.members:
            member.kill()
        if self._mapper is not None:
            kill(self._mapper)
            self._mapper = None
        shutil.rmtree(self._home, ignore_errors=True)


def _wait(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 2 * START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError("a RabbitMQ cluster did not come up in time")
        time.sleep(0.1)
