"""Publishers, hosts, brokers, and the accidents that befall them; in the end a ledger of what became of every message."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from chaos.work import DONE, DYING, NEEDS, WORK, Done, Work

from rockbot.state.keys import prefix
from rockbot.state.open import open_store
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BrokerUnreachable, NotConfirmed
from rockbot_messaging.letters import Keep, Letter
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from rockbot_messaging.verdicts import Ack

HOST = Path(__file__).with_name("host.py")
WEIGHTS = (60, 10, 10, 5, 8, 7)


@dataclass
class Ledger:
    """What was sent, and what became of it."""

    seed: int
    sent: dict[str, str] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    effects: dict[str, int] = field(default_factory=dict)
    dead: Counter[str] = field(default_factory=Counter)
    repeated_publishes: int = 0
    accidents: Counter[str] = field(default_factory=Counter)

    @property
    def sound(self) -> set[str]:
        return {name for name, need in self.sent.items() if need not in DYING}

    @property
    def dying(self) -> set[str]:
        return {name for name, need in self.sent.items() if need in DYING}

    def __str__(self) -> str:
        copies = sum(count - 1 for count in self.done.values())
        return (
            f"seed {self.seed}: {len(self.sent)} messages sent ({self.repeated_publishes} publishes repeated); "
            f"{len(self.effects)} effects, {sum(count > 1 for count in self.effects.values())} of them twice; "
            f"{len(self.done)} told done, {copies} copies; {len(self.dead)} dead, "
            f"{sum(self.dead.values()) - len(self.dead)} copies; accidents: "
            + ", ".join(f"{count} {what}" for what, count in sorted(self.accidents.items()))
        )


@final
class Storm:
    """One run. `accidents` maps a name to something that happens to the brokers; hosts and publishers have their own."""

    def __init__(
        self, url: str, folder: Path, seed: int, *, accidents: dict[str, Callable[[], Awaitable[None]]]
    ) -> None:
        self.url = url
        self.folder = folder
        self.random = random.Random(seed)
        self.ledger = Ledger(seed)
        self.namespace = f"chaos{uuid.uuid4().hex[:8]}"
        self._broker_accidents = accidents
        self._hosts: list[asyncio.subprocess.Process] = []
        self._buses: list[RabbitBus] = []
        self._config = folder / "rockbot.toml"
        self._state = f"sqlite:///{folder / 'state.db'}"
        self._config.write_text(
            f'broker_url = "{url}"\nstate_url = "{self._state}"\nnamespace = "{self.namespace}"\n'
            '[host]\nrecovery_seconds = 2\ndrain_seconds = 5\nlog_level = "WARNING"\n'
        )

    async def run(self, *, messages: int, publishers: int, hosts: int, accidents: int, timeout: float) -> Ledger:
        """Send everything through accidents, wait until every message has its end, and return the ledger."""
        ledger = self.ledger
        needs = self.random.choices(NEEDS, WEIGHTS, k=messages)
        works = [Work(name=f"{number:06d}", need=need) for number, need in enumerate(needs)]
        ledger.sent = {work.name: work.need for work in works}
        try:
            async with asyncio.timeout(timeout):
                for _ in range(publishers + 1):
                    await self._connect()
                watcher = self._buses[-1]
                await watcher.subscriber.subscribe(DONE, self._told)
                await asyncio.gather(*(self._start_host() for _ in range(hosts)))
                publishing = asyncio.gather(
                    *(self._publish(self._buses[one], works[one::publishers]) for one in range(publishers))
                )
                storming = asyncio.create_task(self._storm(accidents, messages))
                await asyncio.gather(publishing, storming)
                await self._until(lambda: set(ledger.done) >= ledger.sound)
                await self._until_buried(watcher)
        finally:
            await self.close()
        store = open_store(self._state, SystemClock())
        await store.open()
        after: str | None = None
        while True:
            page = await store.list(prefix("default", "chaos-effect"), after=after, limit=1000)
            for entry in page.entries:
                ledger.effects[entry.key.rsplit("/", 1)[1]] = int(entry.value)
            if (after := page.next) is None:
                break
        await store.close()
        return ledger

    async def close(self) -> None:
        """End every host and connection that is still there."""
        for host in self._hosts:
            if host.returncode is None:
                os.kill(host.pid, signal.SIGTERM)
        for host in self._hosts:
            try:
                async with asyncio.timeout(20):
                    await host.wait()
            except TimeoutError:
                host.kill()
                await host.wait()
        await asyncio.gather(*(bus.close() for bus in self._buses))

    async def _connect(self) -> None:
        settings = RabbitSettings(url=self.url, namespace=self.namespace, connect_timeout=60, confirm_timeout=60)
        bus = RabbitBus(settings, SystemClock(), RandomIds())
        self._buses.append(bus)
        await bus.open()
        await bus.declare([WORK, DONE])

    async def _start_host(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROCKBOT_")}
        # Thousands of failures are meant; what the hosts say about them is kept beside their state.
        with (self.folder / "hosts.log").open("ab") as log:
            host = await asyncio.create_subprocess_exec(
                sys.executable,
                str(HOST),
                str(self._config),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        self._hosts.append(host)
        assert host.stdout is not None
        async with asyncio.timeout(90):
            assert (await host.stdout.readline()).strip() == b"consuming", "a host of the chaos test did not start"

    async def _told(self, envelope: MessageEnvelope) -> Ack:
        self.ledger.done[Done.model_validate_json(envelope.body).name] += 1
        return Ack()

    async def _publish(self, bus: RabbitBus, works: list[Work]) -> None:
        """Publish in parts; what is not confirmed is published again under the same ids."""
        clock = SystemClock()
        envelopes = [
            MessageEnvelope(
                topic="chaos.work",
                body=work.to_body(),
                message_id=f"{self.namespace}-{work.name}",
                type=Work.type_name,
                source="chaos",
                timestamp_ms=clock.now_ms(),
            )
            for work in works
        ]
        at = 0
        while at < len(envelopes):
            part = envelopes[at : at + self.random.choice([1, 10, 50, 100])]
            try:
                await bus.publisher.publish_many(part)
            except (NotConfirmed, BrokerUnreachable):
                self.ledger.repeated_publishes += 1
                continue
            at += len(part)

    async def _storm(self, accidents: int, messages: int) -> None:
        """One accident each time another share of the messages was told done."""
        share = len(self.ledger.sound) * 9 // 10 // (accidents + 1)
        kinds: list[Callable[[], Awaitable[None]]] = [self._kill_host, self._cut_host, self._cut_publisher]
        for number in range(1, accidents + 1):
            await self._until(lambda wanted=number * share: len(self.ledger.done) >= wanted)  # type: ignore[misc]
            broker = list(self._broker_accidents.items())
            if broker and number % 3 == 0:
                name, happen = self.random.choice(broker)
                self.ledger.accidents[name] += 1
                await happen()
            else:
                await self.random.choice(kinds)()

    async def _kill_host(self) -> None:
        self.ledger.accidents["host killed"] += 1
        host = self.random.choice([host for host in self._hosts if host.returncode is None])
        host.kill()
        await host.wait()
        self._hosts.remove(host)
        await self._start_host()

    async def _cut_host(self) -> None:
        self.ledger.accidents["host's connections cut"] += 1
        os.kill(self.random.choice([host for host in self._hosts if host.returncode is None]).pid, signal.SIGUSR1)

    async def _cut_publisher(self) -> None:
        self.ledger.accidents["publisher's connections cut"] += 1
        self.random.choice(self._buses[:-1]).cut()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            for host in self._hosts:
                assert host.returncode is None, f"a host ended by itself with status {host.returncode}"
            await asyncio.sleep(0.02)

    async def _until_buried(self, bus: RabbitBus) -> None:
        while True:
            dead: Counter[str] = Counter()

            async def read(letters: Any, dead: Counter[str] = dead) -> list[Keep]:
                for letter in letters:
                    assert isinstance(letter, Letter)
                    dead[Work.model_validate_json(letter.envelope.body).name] += 1
                return [Keep() for _ in letters]

            await bus.dead_letters.walk(WORK.name, read)
            if set(dead) >= self.ledger.dying:
                self.ledger.dead = dead
                return
            await asyncio.sleep(0.5)


def check(ledger: Ledger) -> None:
    """Every message is handled or dead, none is missing, every effect happened once."""
    print(ledger)
    assert set(ledger.effects) == ledger.sound, sorted(ledger.sound ^ set(ledger.effects))[:10]
    twice = {name: count for name, count in ledger.effects.items() if count != 1}
    assert not twice, twice
    assert set(ledger.done) == ledger.sound
    assert set(ledger.dead) == ledger.dying, sorted(set(ledger.dead) ^ ledger.dying)[:10]
