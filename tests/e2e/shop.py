"""A shop whose orders can fail: a handler of its own for `rockbot run`, and a ledger of what arrived and what came of it.

The handler is installed as a user would install one, as a package with an entry point; it writes one value per order
through the deduplication link, and a line per arrival into a file before that link is asked.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aio_pika
from e2e.processes import ROCKBOT, environment

from rockbot.state.keys import prefix
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.letters import Failure
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from rockbot_messaging.subscriptions import WorkSubscription

ORDERS = WorkSubscription(name="orders", patterns=("order.#",))
#: What orders die of: five kinds.
KINDS = (
    ("ValueError", "order {number} has no items"),
    ("TimeoutError", "no answer from https://api.example/{id} in 30 s"),
    ("KeyError", "'{id}' is missing"),
    ("PermanentFailure", "customer {id} is unknown"),
    ("ConnectionError", "gave up after 5 attempts: 10.0.0.{number} refused the connection"),
)

#: Bytes of an arrival: an id and a newline.
_LINE = len("00000000-order\n")

_PLUGIN = """
import os
from typing import ClassVar

from rockbot.chain import Order
from rockbot.events import Event
from rockbot.plugins import Contribution, Link
from rockbot_messaging.subscriptions import WorkSubscription


class Ordered(Event):
    type_name: ClassVar[str] = "shop.order"
    topics: ClassVar[tuple[str, ...]] = ("order.#",)
    order: int


class Arrivals:
    handles = (Ordered,)

    def __init__(self):
        self._file = os.open(os.environ["SHOP_ARRIVALS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def handle(self, event, context, call_next):
        os.write(self._file, f"{context.envelope.message_id}\\n".encode())
        await call_next(event, context)


class Till:
    handles = (Ordered,)

    def __init__(self, state):
        self._state = state

    async def handle(self, event, context, call_next):
        at = context.key("sold", context.envelope.message_id)
        entry = await self._state.get(at)
        sold = int(entry.value) if entry else 0
        context.effects.put(at, str(sold + 1).encode(), expect=entry.version if entry else 0)


def plugin(services):
    return Contribution(
        links=(Link(Order.LOGGING, "arrivals", Arrivals()), Link(Order.WORK, "till", Till(services.state))),
        subscriptions=(WorkSubscription(name="orders", patterns=("order.#",), prefetch=100),),
        events=(Ordered,),
    )
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, and what it took."""

    code: int
    out: str
    err: str
    seconds: float
    cpu: float
    megabytes: float


class Shop:
    """Settings, state and commands of one test; its processes are the test's to start and stop."""

    def __init__(self, folder: Path, amqp_url: str) -> None:
        self.folder = folder
        self.url = amqp_url
        self.namespace = f"shop{uuid.uuid4().hex[:8]}"
        self.queue = f"{self.namespace}.orders"
        self.arrivals_file = folder / "arrivals"
        self.arrivals_file.touch()
        site = install(folder / "site", "shop", _PLUGIN)
        (folder / "rockbot.toml").write_text(
            'handlers = ["deduplication", "shop"]\n[subscriptions.orders]\nremember_seconds = 3600\n'
        )
        self.env = environment(
            PYTHONPATH=str(site),
            SHOP_ARRIVALS=str(self.arrivals_file),
            ROCKBOT_BROKER_URL=amqp_url,
            ROCKBOT_NAMESPACE=self.namespace,
            ROCKBOT_STATE_URL=f"sqlite:///{folder / 'state.db'}",
            ROCKBOT_HOST__LOG_FORMAT="json",
        )

    def bus(self) -> RabbitBus:
        """A connection of the test's own."""
        settings = RabbitSettings(url=self.url, namespace=self.namespace, subscriptions=("orders",))
        return RabbitBus(settings, clock=SystemClock(), ids=RandomIds())

    async def run(self, *arguments: str, timeout: float = 120, **env: str) -> Ran:
        """A command to its end."""
        return await asyncio.to_thread(self._run, arguments, timeout, env)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command that the caller kills or waits for."""
        return subprocess.Popen(
            [ROCKBOT, *arguments],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def waiting(self) -> int:
        """Messages that wait in the work queue, nobody consuming."""
        connection = await aio_pika.connect(self.url)
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(self.queue, passive=True)
            return queue.declaration_result.message_count or 0

    def _run(self, arguments: Sequence[str], timeout: float, env: dict[str, str]) -> Ran:
        out, err = (self.folder / f"{uuid.uuid4()}.{name}" for name in ("out", "err"))
        started = time.perf_counter()
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                [ROCKBOT, *arguments],
                env={**self.env, **env},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
            )
            usage, status, megabytes = _reap(process, timeout)
        seconds = time.perf_counter() - started
        return Ran(
            code=os.waitstatus_to_exitcode(status),
            out=out.read_text(),
            err=err.read_text(),
            seconds=seconds,
            cpu=usage.ru_utime + usage.ru_stime,
            megabytes=megabytes,
        )

    def arrivals(self) -> Counter[str]:
        """How often each id came to a handler's chain."""
        return Counter(self.arrivals_file.read_text().splitlines())

    @property
    def arrived(self) -> int:
        """How many arrivals there were, copies too."""
        return self.arrivals_file.stat().st_size // _LINE

    async def sold(self) -> dict[str, int]:
        """How often each order had an effect."""
        store = SqliteStateStore(self.folder / "state.db", SystemClock())
        await store.open()
        found: dict[str, int] = {}
        after: str | None = None
        while True:
            page = await store.list(prefix("default", "sold"), after=after, limit=2000)
            found |= {entry.key.rsplit("/", 1)[1]: int(entry.value) for entry in page.entries}
            if page.next is None:
                break
            after = page.next
        await store.close()
        return found


def _reap(process: subprocess.Popen[bytes], timeout: float) -> tuple[resource.struct_rusage, int, float]:
    """What the process used, itself alone, its status, and its largest resident size in megabytes.

    The size is read while it runs: ``ru_maxrss`` counts that of the process it was forked from, too.
    """
    deadline = time.monotonic() + timeout
    largest = 0.0
    while True:
        largest = max(largest, _resident(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage, status, largest
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise AssertionError(f"{process.args} took longer than {timeout} s")
        time.sleep(0.005)


def _resident(pid: int) -> float:
    """The largest resident size a process had so far, in megabytes; 0 once it has ended."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def install(site: Path, name: str, source: str) -> Path:
    """A package with one handler of that name, as an installer would leave it in `site`."""
    info = site / f"e2e_{name}-1.dist-info"
    info.mkdir(parents=True)
    (site / f"e2e_{name}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: e2e-{name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[rockbot.handlers]\n{name} = e2e_{name}:plugin\n")
    return site


async def bury_orders(bus: RabbitBus, count: int, *, first: int = 0) -> None:
    """So many dead orders of five kinds, as a host would have buried them in two hours.

    Their ids are ``00000000-order`` and on, or count from `first`.
    """
    first_ms = SystemClock().now_ms() - 7_200_000
    step = 7_000_000 // count

    async def bury(number: int) -> None:
        error, reason = KINDS[number % 5]
        envelope = MessageEnvelope(
            topic=f"order.created.{number % 10}",
            body=b'{"order": %d, "note": "%s"}' % (number, b"x" * 150),
            message_id=f"{number:08}-order",
            type="shop.order",
            source="shop",
            conversation_id=f"c{number % 1000}",
        )
        failure = Failure(
            reason=reason.format(number=number % 250, id=uuid.uuid4()),
            queue="orders",
            topic=envelope.topic,
            at_ms=first_ms + (number - first) * step,
            attempt=5,
            error_type=error,
            handler="till",
        )
        await bus.dead_letters.bury("orders", envelope, failure)

    for begin in range(first, first + count, 1000):
        await asyncio.gather(*(bury(number) for number in range(begin, min(first + count, begin + 1000))))
