"""A RabbitMQ node that belongs to the test session alone: own directories, own ports, own Erlang port mapper.

Nothing of it is shared with a broker of the machine, it listens on 127.0.0.1 only, and it can be killed without asking.
`ROCKBOT_TEST_AMQP_URL` names a server to use instead; `ROCKBOT_TEST_DOCKER=1` takes one from a container. Tests that
must kill or restart the broker need the private node and say so.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, final

import pytest

from .erlang import MISSING, START_SECONDS, evaluated, greets, installation, listens, port_mapper
from .launching import free_port, kill, launch

MEMORY: Final = "512MB"
# Erlang for the virtual host of a URL without one, and for who changes users.
_ROOT: Final = '<<"/">>'
_ACTOR: Final = '<<"tests">>'


def _binary(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'<<"{escaped}"/utf8>>'


@final
class RabbitNode:
    """One private node. `start` after `kill` finds everything that was stored.

    `plugins` are enabled before it starts; with ``rabbitmq_management`` the node has a `management_url`. `tls` is a folder
    with ``ca.pem``, ``server.pem`` and ``server.key`` (`certificates` makes one): the node then has a `tls_port`, too.
    `client_certificate` says whether TLS clients need one.
    """

    def __init__(
        self,
        *,
        extra_config: str = "",
        plugins: Sequence[str] = (),
        tls: Path | None = None,
        client_certificate: bool = False,
    ) -> None:
        sbin = installation()
        if sbin is None:
            raise RuntimeError(MISSING)
        self._sbin = sbin
        self._plugins = tuple(plugins)
        self.management_port = free_port() if "rabbitmq_management" in plugins else 0
        self.tls_port = free_port() if tls is not None else 0
        if self.management_port:
            extra_config += f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management_port}\n"
        if tls is not None:
            extra_config += (
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
                f"ssl_options.cacertfile = {tls}/ca.pem\n"
                f"ssl_options.certfile = {tls}/server.pem\n"
                f"ssl_options.keyfile = {tls}/server.key\n"
                "ssl_options.verify = verify_peer\n"
                f"ssl_options.fail_if_no_peer_cert = {str(client_certificate).lower()}\n"
            )
        self._extra_config = extra_config
        self._home = Path(tempfile.mkdtemp(prefix="rockbot-rabbit-"))
        self.port = free_port()
        self.name = f"rb{self.port}@localhost"
        self._cookie = f"ROCKBOT{self.port}"
        self._mapper_port = free_port()
        self._env = self._environment(self._mapper_port, free_port())
        self._mapper: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def management_url(self) -> str:
        """The HTTP API, for a node with ``rabbitmq_management``."""
        return f"http://guest:guest@127.0.0.1:{self.management_port}"

    def url_of(self, user: str, password: str) -> str:
        """The node's URL for another user."""
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/"

    def _environment(self, epmd: int, dist: int) -> dict[str, str]:
        home = self._home
        cookie = home / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        (home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "loopback_users = none\n"
            f"vm_memory_high_watermark.absolute = {MEMORY}\n"
            "disk_free_limit.absolute = 50MB\n" + self._extra_config
        )
        (home / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")
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
            command = [port_mapper(), "-port", str(self._mapper_port), "-address", "127.0.0.1"]
            self._mapper = launch(command, env=self._env, cwd=self._home, console=self._home / "mapper.log")
            self._wait(lambda: listens(self._mapper_port), self._mapper)
        server = [str(self._sbin / "rabbitmq-server")]
        self._process = launch(server, env=self._env, cwd=self._home, console=self._home / "console.log")
        self._wait(lambda: greets(self.port), self._process)
        if self.management_port:
            self._wait(self._manages, self._process)

    def _manages(self) -> bool:
        """Whether the management interface answers; on 4.3 it fails for a moment after AMQP is there."""
        asked = http.client.HTTPConnection("127.0.0.1", self.management_port, timeout=10)
        try:
            asked.request("GET", "/api/overview", headers={"Authorization": "Basic Z3Vlc3Q6Z3Vlc3Q="})
            return asked.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            asked.close()

    def _wait(self, ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                console = self._home / "console.log"
                tail = console.read_text(errors="replace")[-2000:] if console.exists() else "no port mapper"
                raise RuntimeError(f"the private RabbitMQ node did not start:\n{tail}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, as a power cut would do it."""
        if self._process is not None:
            kill(self._process)
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

    def evaluate(self, code: str) -> str:
        """Have the node evaluate Erlang expressions; returns what the last one is, as text.

        Raises:
            RuntimeError: the node is gone, or an expression failed.
        """
        value = evaluated(code, node=self.name, cookie=self._cookie, env=self._env)
        return self.ctl("eval", code).strip() if value is None else value

    def add_user(
        self,
        name: str,
        password: str,
        *,
        configure: str = "",
        write: str = "",
        read: str = "",
        topics: Sequence[tuple[str, str, str]] = (),
        tags: Sequence[str] = (),
    ) -> str:
        """Make a user with exactly these permissions (`topics`: exchange, write, read) and return its URL."""
        who = _binary(name)
        self.evaluate(f"rabbit_auth_backend_internal:add_user({who}, {_binary(password)}, {_ACTOR}).")
        self.permit(name, configure=configure, write=write, read=read)
        for topic in topics:
            said = ", ".join(map(_binary, topic))
            call = f"rabbit_auth_backend_internal:set_topic_permissions({who}, {_ROOT}, {said}, {_ACTOR})."
            self.evaluate(call)
        if tags:
            self.evaluate(f"rabbit_auth_backend_internal:set_tags({who}, [{', '.join(tags)}], {_ACTOR}).")
        return self.url_of(name, password)

    def permit(self, user: str, *, configure: str = "", write: str = "", read: str = "") -> None:
        """Set what a user may do on the virtual host."""
        said = ", ".join(map(_binary, (user, "/", configure, write, read)))
        self.evaluate(f"rabbit_auth_backend_internal:set_permissions({said}, {_ACTOR}).")

    def close_connections(self) -> None:
        """Have the node close every client's connection."""
        # One that ends by itself meanwhile fails its own call only.
        closing = 'catch rabbit_networking:close_connection(Pid, "for a test")'
        self.evaluate(f"[{closing} || Pid <- rabbit_networking:connections()].")

    def allow_memory(self, mark: str = MEMORY) -> None:
        """Set how much memory the node may use before it blocks publishers; without a number, what it started with."""
        set_mark = f'vm_memory_monitor:set_vm_memory_high_watermark({{absolute, "{mark}"}})'
        # Whoever handles alarms answers after it has told the connections.
        self.evaluate(f"{set_mark}, gen_event:which_handlers(alarm_handler).")

    def remember_queues(self) -> None:
        """Have the node write its registry of quorum queues now.

        3.10 writes it lazily, and a queue declared just before a SIGKILL comes back empty and without a leader; queues
        of a broker that has been up for a while are not affected.
        """
        self.evaluate("[dets:sync(Table) || Table <- dets:all()].")

    def stop(self) -> None:
        """Kill the server and its port mapper, remove its files."""
        self.kill()
        if self._mapper is not None:
            kill(self._mapper)
            self._mapper = None
        shutil.rmtree(self._home, ignore_errors=True)


def certificates(folder: Path) -> None:
    """An authority of its own (``ca``), and what it signed: ``server`` and ``client`` for localhost, ``elsewhere`` for
    another host name, ``expired`` that was valid for a day long ago; ``other`` is an authority that signed nothing."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for authority in ("ca", "other"):
        openssl("req", "-x509", *curve, "-keyout", f"{authority}.key", "-out", f"{authority}.pem",
                "-subj", f"/CN={authority}", "-days", "2", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    # From 3.13 on Python wants these, too (RFC 5280, 4.2.1).
    keys = "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    (folder / "names").write_text(f"{keys}subjectAltName=DNS:localhost,IP:127.0.0.1")
    (folder / "names-elsewhere").write_text(f"{keys}subjectAltName=DNS:broker.example")
    (folder / "index").write_text("")
    (folder / "ca.conf").write_text(
        "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n"
        "policy=any\nunique_subject=no\n[any]\ncommonName=supplied\n"
    )
    for name in ("server", "client", "elsewhere", "expired"):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        span = ("20200101000000Z", "20200102000000Z") if name == "expired" else ("20200101000000Z", "20491231000000Z")
        openssl("ca", "-batch", "-notext", "-config", "ca.conf", "-cert", "ca.pem", "-keyfile", "ca.key",
                "-in", f"{name}.csr", "-out", f"{name}.pem", "-startdate", span[0], "-enddate", span[1],
                "-extfile", "names-elsewhere" if name == "elsewhere" else "names")  # fmt: skip


@pytest.fixture(scope="session")
def managed_node() -> Iterator[RabbitNode]:
    """A private node with the management plug-in; tests keep apart by namespace."""
    # It counts every second what a usual one counts every five.
    counting = (f"management.sample_retention_policies.{each}.minute = 1\n" for each in ("global", "basic", "detailed"))
    node = RabbitNode(
        plugins=("rabbitmq_management",), extra_config=f"collect_statistics_interval = 250\n{''.join(counting)}"
    )
    node.start()
    node.evaluate("application:set_env(rabbit, quorum_tick_interval, 300).")
    yield node
    node.stop()


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
        wait_for_logs(server, "Server startup complete", timeout=START_SECONDS)
        yield f"amqp://guest:guest@{server.get_container_host_ip()}:{server.get_exposed_port(5672)}/"
