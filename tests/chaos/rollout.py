"""Two replicas of a host are replaced by those of the next release, one after the other, while tasks come in steadily.

Old and new work on the same conversations for as long as that takes. Nobody is killed: who ends has drained, and what it
had in hand was finished once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from chaos.release import next_release
from chaos.talker import done
from chaos.talks import ANSWERS, TOOLS

from rockbot.events import AgentResponse, AgentTask
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.envelope import SCHEMA_VERSION, MessageEnvelope
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from rockbot_messaging.verdicts import Ack

TESTS = Path(__file__).parents[1]
#: Seconds of load before the first replacement and after the last, and at most: a slow machine has a backlog then.
_CALM, _LONGEST = 0.5, 4.0


@dataclass
class Rolled:
    """What became of the tasks, who did what, how the old replicas ended."""

    rate: int
    sent: dict[str, float] = field(default_factory=dict)
    answers: dict[str, dict[str, AgentResponse]] = field(default_factory=lambda: defaultdict(dict))
    seconds: dict[str, float] = field(default_factory=dict)
    versions: Counter[int] = field(default_factory=Counter)
    releases: dict[int, str] = field(default_factory=dict)
    drains: list[tuple[int, float]] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)

    @property
    def shared(self) -> set[str]:
        """Conversations that replicas of both releases worked on."""
        by: dict[str, set[str]] = defaultdict(set)
        for line in self.trace:
            if "name" in line:
                by[line["name"]].add(self.releases[line["pid"]])
        return {name for name, releases in by.items() if len(releases) == 2}

    def __str__(self) -> str:
        took = sorted(self.seconds.values())
        answered = ", ".join(f"{count} as version {version}" for version, count in sorted(self.versions.items()))
        return (
            f"{len(self.sent)} tasks at {self.rate}/s while both replicas were replaced; answered {answered};"
            f" {len(self.shared)} conversations by both releases;"
            f" p50 {1000 * took[len(took) // 2]:.0f} ms, p99 {1000 * took[len(took) * 99 // 100]:.0f} ms,"
            f" longest {1000 * took[-1]:.0f} ms;"
            f" drained in {', '.join(f'{seconds:.2f} s' for _, seconds in self.drains)}"
        )


@final
class Rollout:
    """One run."""

    def __init__(self, url: str, folder: Path) -> None:
        self._folder = folder
        self._namespace = f"rollout{uuid.uuid4().hex[:8]}"
        self._hosts: list[asyncio.subprocess.Process] = []
        self._bus = RabbitBus(RabbitSettings(url=url, namespace=self._namespace), SystemClock(), RandomIds())
        self._trace = folder / "trace.jsonl"
        self._config = folder / "rockbot.toml"
        (folder / "tools.py").write_text(TOOLS)
        self._config.write_text(
            f'broker_url = "{url}"\nstate_url = "sqlite:///{folder / "state.db"}"\nnamespace = "{self._namespace}"\n'
            f'model = "scripted/demo"\n[tools]\nfiles = ["{folder / "tools.py"}"]\n'
            '[host]\ndrain_seconds = 10\nlog_level = "WARNING"\nllm_concurrency = 16\n'
        )
        self._paths = {"old": (TESTS,), "new": (next_release(folder / "next"), TESTS)}

    async def run(self, *, rate: int, timeout: float) -> Rolled:
        """Send `rate` tasks a second until both replicas are new and a little longer; wait until each was answered."""
        rolled = Rolled(rate)

        async def told(envelope: MessageEnvelope) -> Ack:
            response = AgentResponse.model_validate_json(envelope.body)
            name = response.conversation_id
            if not rolled.answers[name]:
                rolled.seconds[name] = time.monotonic() - rolled.sent[name]
                rolled.versions[envelope.schema_version] += 1
            rolled.answers[name][envelope.message_id] = response
            return Ack()

        try:
            async with asyncio.timeout(timeout):
                await self._bus.open()
                await self._bus.declare([ANSWERS])
                await self._bus.subscriber.subscribe(ANSWERS, told)
                # All of them are composed before the load begins: how fast modules load is no part of what is measured.
                old, new = [
                    await asyncio.gather(self._compose(release, rolled), self._compose(release, rolled))
                    for release in ("old", "new")
                ]
                await asyncio.gather(*(self._begin(host) for host in old))
                rolled_out = asyncio.Event()
                load = asyncio.create_task(self._load(rolled, rolled_out))
                await self._passed(_CALM)
                for host, replacement in zip(old, new, strict=True):
                    await self._begin(replacement)
                    rolled.drains.append(await self._drained(host))
                await self._passed(_CALM)
                rolled_out.set()
                await load
                while len(rolled.answers) < len(rolled.sent):
                    self._nobody_ended()
                    await asyncio.sleep(0.02)
                for queue in ("agent.assistant", "llm.scripted.interactive", "tool.errands"):
                    rolled.dead += [
                        f"{queue}: {letter.failure.reason}" for letter in await self._bus.dead_letters.letters(queue)
                    ]
        finally:
            ends = [await self._drained(host) for host in self._hosts]
            await self._bus.close()
        rolled.drains += ends
        rolled.trace = [json.loads(line) for line in self._trace.read_text().splitlines()]
        return rolled

    async def _load(self, rolled: Rolled, stop: asyncio.Event) -> None:
        """Tasks at their instants, whether the ones before were answered or not; each is confirmed by the broker."""
        began, publishing = time.monotonic(), asyncio.TaskGroup()
        async with publishing:
            while not stop.is_set() and len(rolled.sent) < rolled.rate * _LONGEST:
                due = began + len(rolled.sent) / rolled.rate
                await asyncio.sleep(max(0, due - time.monotonic()))
                name = f"task-{len(rolled.sent):05d}"
                rolled.sent[name] = due
                publishing.create_task(self._bus.publisher.publish(self._task(name)))

    def _task(self, name: str) -> MessageEnvelope:
        return MessageEnvelope(
            topic="agent.task.assistant",
            body=AgentTask(input=name).to_body(),
            message_id=str(uuid.uuid5(uuid.NAMESPACE_URL, self._namespace + name)),
            type=AgentTask.type_name,
            source="rollout",
            conversation_id=name,
        )

    async def _passed(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._nobody_ended()
            await asyncio.sleep(0.02)

    def _nobody_ended(self) -> None:
        for host in self._hosts:
            assert host.returncode is None, f"a host ended by itself with status {host.returncode}: {self._said()}"

    def _said(self) -> str:
        return (self._folder / "hosts.log").read_text()[-4000:]

    async def _compose(self, release: str, rolled: Rolled) -> asyncio.subprocess.Process:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROCKBOT_")}
        environment |= {"PYTHONPATH": os.pathsep.join(map(str, self._paths[release])), "TALKER_ERRANDS": "1"}
        with (self._folder / "hosts.log").open("ab") as log:
            host = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "chaos.talker",
                str(self._config),
                str(self._trace),
                "wait",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=self._folder,
            )
        self._hosts.append(host)
        rolled.releases[host.pid] = release
        await self._says(host, b"composed")
        return host

    async def _begin(self, host: asyncio.subprocess.Process) -> None:
        assert host.stdin is not None
        host.stdin.write(b"\n")
        await self._says(host, b"consuming")

    async def _says(self, host: asyncio.subprocess.Process, line: bytes) -> None:
        assert host.stdout is not None
        async with asyncio.timeout(90):
            assert (await host.stdout.readline()).strip() == line, self._said()

    async def _drained(self, host: asyncio.subprocess.Process) -> tuple[int, float]:
        """End a host politely: its exit status, and the seconds that took."""
        if host in self._hosts:
            self._hosts = [each for each in self._hosts if each is not host]
        began = time.monotonic()
        if host.returncode is None:
            host.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(30):
                return await host.wait(), time.monotonic() - began
        except TimeoutError:
            host.kill()
            return await host.wait(), time.monotonic() - began


def check(rolled: Rolled) -> None:
    """Every task is answered once and rightly, every call was made once, both releases had their part, all ended cleanly."""
    print(rolled)
    assert set(rolled.answers) == set(rolled.sent)
    for name, answers in rolled.answers.items():
        (answer,) = answers.values()  # copies of it have its id
        assert (answer.status, answer.output, answer.model_calls, answer.tool_calls) == (
            "completed",
            done(name, 0),
            2,
            1,
        )
    assert rolled.dead == []
    assert [code for code, _ in rolled.drains] == [0] * 4
    calls = Counter(
        (line["name"], line["what"], line["step"]) for line in rolled.trace if line["what"] in ("model", "tool")
    )
    steps = (("model", 0), ("tool", 0), ("model", 1))
    assert calls == Counter({(name, what, step): 1 for name in rolled.sent for what, step in steps})
    assert [line for line in rolled.trace if line["what"] == "disorder"] == []
    assert SCHEMA_VERSION + 1 in rolled.versions
    assert rolled.shared
