"""Many conversations at once over two hosts that are killed at random: publishing, killing, and what became of each."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, final

from chaos.talker import ERRANDS, done

from rockbot.events import AgentResponse, AgentTask
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.verdicts import Ack

TALKER = Path(__file__).with_name("talker.py")
ANSWERS = WorkSubscription(name="talks-answers", patterns=("agent.response.*",), prefetch=200)
STEPS = 2 + 2 * ERRANDS

TOOLS = """
from chaos.talker import done, note
from rockbot.tools import ToolContext, Toolset

errands = Toolset("errands")

@errands.tool(idempotent=True)
async def run(context: ToolContext, name: str, errand: int) -> str:
    "Run an errand."
    note("tool", context.call_id, name=name, step=errand)
    return done(name, errand)
"""


@dataclass
class Outcome:
    """Answers by name of the conversation and id of the answer; the trace; what it took."""

    names: list[str]
    answers: dict[str, dict[str, AgentResponse]] = field(default_factory=lambda: defaultdict(dict))
    trace: list[dict[str, Any]] = field(default_factory=list)
    killed: set[int] = field(default_factory=set)
    servers_killed: int = 0
    seconds: float = 0.0
    memory_mib: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        gaps: list[float] = []
        before: dict[str, float] = {}
        for line in self.trace:
            if line["what"] in ("model", "tool"):
                name = line["name"]
                if name in before:
                    gaps.append(line["at"] - before[name])
                before[name] = line["at"]
        gaps.sort()
        steps = len(self.names) * STEPS
        return (
            f"{len(self.names)} conversations of {STEPS} steps, {len(self.killed)} kills"
            f"{f' and {self.servers_killed} of servers' if self.servers_killed else ''}, {self.seconds:.1f} s:"
            f" {steps / self.seconds:.0f} steps/s, {2000 * self.seconds / steps:.1f} ms of a host per step;"
            f" from call to call p50 {1000 * median(gaps):.0f} ms, p99 {1000 * gaps[len(gaps) * 99 // 100]:.0f} ms;"
            f" {sum(self.repeated.values())} calls begun again;"
            f" memory {', '.join(f'{each:.0f} MiB' for each in self.memory_mib)}"
        )

    @property
    def repeated(self) -> Counter[str]:
        """Calls that were begun more than once: how often more."""
        begun = Counter(line["call"] for line in self.trace if line["what"] in ("model", "tool"))
        return Counter({call: count - 1 for call, count in begun.items() if count > 1})


@final
class Talks:
    """One run.

    `state` is the address of a server but for the name of the run (empty: a file of SQLite), `settings` are more of them,
    `thinks` the seconds that each call of the model takes.
    """

    def __init__(
        self, url: str, folder: Path, seed: int, *, state: str = "", settings: str = "", thinks: float = 0
    ) -> None:
        self.random = random.Random(seed)
        self._folder = folder
        self._namespace = f"talks{uuid.uuid4().hex[:8]}"
        self._hosts: list[asyncio.subprocess.Process] = []
        self._bus = RabbitBus(RabbitSettings(url=url, namespace=self._namespace), SystemClock(), RandomIds())
        self._config = folder / "rockbot.toml"
        self._trace = folder / "trace.jsonl"
        self._thinks = thinks
        self._read = self._seen = 0
        state = state + self._namespace if state else f"sqlite:///{folder / 'state.db'}"
        (folder / "tools.py").write_text(TOOLS)
        self._config.write_text(
            f'broker_url = "{url}"\nstate_url = "{state}"\nnamespace = "{self._namespace}"\n'
            f'model = "scripted/demo"\n[tools]\nfiles = ["{folder / "tools.py"}"]\n'
            '[host]\nrecovery_seconds = 5\nclaim_seconds = 2\ndrain_seconds = 5\nlog_level = "WARNING"\n'
            f"llm_concurrency = 16\n{settings}"
        )

    async def run(
        self,
        *,
        conversations: int,
        kills: int,
        timeout: float,
        calls: int | None = None,
        servers: Sequence[Callable[[], None]] = (),
        together: int = 0,
    ) -> Outcome:
        """Begin all of them at once, kill hosts while they go on, wait until each was answered.

        Each kill comes when a random one of the first `calls` calls was finished; unless given, these are all that they need.
        Of `servers`, each kills a server and starts it again; they take turns with the hosts.
        With `together`, all hosts are killed at once when a third of the calls was finished, and so many start at once.
        """
        calls = conversations * (2 * ERRANDS + 1) if calls is None else calls
        outcome = Outcome([f"talk-{number:04d}" for number in range(conversations)])

        async def told(envelope: MessageEnvelope) -> Ack:
            response = AgentResponse.model_validate_json(envelope.body)
            outcome.answers[response.conversation_id][envelope.message_id] = response
            return Ack()

        try:
            async with asyncio.timeout(timeout):
                await self._bus.open()
                await self._bus.declare([ANSWERS])
                await self._bus.subscriber.subscribe(ANSWERS, told)
                await asyncio.gather(self._start(), self._start())
                begun = time.monotonic()
                await self._bus.publisher.publish_many([self._task(name) for name in outcome.names])
                if together:
                    await self._until(lambda: self._finished() >= calls // 3)
                    outcome.killed |= {await self._end(host) for host in list(self._hosts)}
                    await asyncio.gather(*(self._start() for _ in range(together)))
                for moment in sorted(self.random.sample(range(1, calls), kills)):
                    await self._until(lambda moment=moment: self._finished() >= moment)  # type: ignore[misc]
                    if servers and self.random.random() < 0.5:
                        await asyncio.to_thread(self.random.choice(servers))
                        outcome.servers_killed += 1
                    else:
                        outcome.killed.add(await self._kill())
                await self._until(lambda: len(outcome.answers) >= conversations)
                outcome.seconds = time.monotonic() - begun
                outcome.memory_mib = [_memory(host.pid) for host in self._hosts]
        finally:
            await self._close()
        outcome.trace = [json.loads(line) for line in self._trace.read_text().splitlines()]
        return outcome

    def _task(self, name: str) -> MessageEnvelope:
        return MessageEnvelope(
            topic="agent.task.assistant",
            body=AgentTask(input=name).to_body(),
            message_id=str(uuid.uuid5(uuid.NAMESPACE_URL, self._namespace + name)),
            type=AgentTask.type_name,
            source="talks",
            conversation_id=name,
        )

    async def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROCKBOT_")}
        environment |= {"PYTHONPATH": str(TALKER.parents[1]), "TALKER_THINKS": str(self._thinks)}
        with (self._folder / "hosts.log").open("ab") as log:
            host = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "chaos.talker",
                str(self._config),
                str(self._trace),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        self._hosts.append(host)
        assert host.stdout is not None
        async with asyncio.timeout(90):
            assert (await host.stdout.readline()).strip() == b"consuming", (self._folder / "hosts.log").read_text()

    async def _kill(self) -> int:
        killed = await self._end(self.random.choice(self._hosts))
        await self._start()
        return killed

    async def _end(self, host: asyncio.subprocess.Process) -> int:
        self._hosts.remove(host)
        host.kill()
        await host.wait()
        with self._trace.open("ab", buffering=0) as trace:
            trace.write(json.dumps({"what": "killed", "call": "", "pid": host.pid}).encode() + b"\n")
        return host.pid

    def _finished(self) -> int:
        """How many calls are safely in the ledger."""
        if self._trace.exists():
            with self._trace.open("rb") as trace:
                trace.seek(self._read)
                new = trace.read()
            self._read += len(new)
            self._seen += new.count(b'"finished"')
        return self._seen

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            for host in self._hosts:
                assert host.returncode is None, f"a host ended by itself with status {host.returncode}"
            await asyncio.sleep(0.02)

    async def _close(self) -> None:
        for host in self._hosts:
            if host.returncode is None:
                host.send_signal(signal.SIGTERM)
        for host in self._hosts:
            try:
                async with asyncio.timeout(20):
                    await host.wait()
            except TimeoutError:
                host.kill()
                await host.wait()
        await self._bus.close()


def _memory(pid: int) -> float:
    """The most that a process had in memory, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def check(outcome: Outcome) -> None:
    """All end as they must, each in its order, and nothing that was finished is done again."""
    print(outcome)
    assert set(outcome.answers) == set(outcome.names)
    for name, answers in outcome.answers.items():
        (answer,) = answers.values()  # copies of it have its id
        assert (answer.status, answer.output) == (
            "completed",
            "; ".join(done(name, errand) for errand in range(ERRANDS)),
        )
        assert (answer.model_calls, answer.tool_calls) == (ERRANDS + 1, ERRANDS)
    order = check_calls(outcome)
    wanted = [(what, step) for step in range(ERRANDS) for what in ("model", "tool")] + [("model", ERRANDS)]
    assert {name: order[name] for name in outcome.names if order[name] != wanted} == {}


def check_calls(outcome: Outcome) -> dict[str, list[tuple[str, int]]]:
    """Nothing that was finished is done again. Returns the calls of each conversation as they were begun first."""
    finished: set[str] = set()
    last: dict[str, int] = {}
    order: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for line in outcome.trace:
        what, call = line["what"], line["call"]
        assert what != "disorder", line
        if what == "finished":
            finished.add(call)
        if what not in ("model", "tool"):
            continue
        assert call not in finished, f"a finished call was made again: {line}"
        # Without its server of state nobody can write down what a call came to, and it is made again.
        lost = last.setdefault(call, line["pid"]) in outcome.killed or outcome.servers_killed
        assert lost or last[call] == line["pid"], f"made twice: {line}"
        last[call] = line["pid"]
        if (step := (what, line["step"])) not in order[line["name"]]:
            order[line["name"]].append(step)
    return order


def most_at_once(outcome: Outcome) -> int:
    """How many calls of the model were under way at the same time, whoever made them; a killed process makes none."""
    under_way: dict[str, int] = {}
    most = 0
    for line in outcome.trace:
        match line["what"]:
            case "model":
                under_way[line["call"]] = line["pid"]
                most = max(most, len(under_way))
            case "said":
                under_way.pop(line["call"])
            case "killed":
                under_way = {call: pid for call, pid in under_way.items() if pid != line["pid"]}
    return most
