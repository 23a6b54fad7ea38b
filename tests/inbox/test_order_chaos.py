"""Hosts are killed, drained and cut off at random while ordered messages flow: every key keeps its order, every effect is
there once, and nothing is missing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from inbox.storm_work import ENTRIES, WRITTEN, Entry, Written, page_key

from rockbot.state.keys import Prefix, prefix
from rockbot.state.open import open_store
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from rockbot_messaging.verdicts import Ack

pytestmark = [pytest.mark.rabbitmq, pytest.mark.crash]

HOST = Path(__file__).with_name("storm_host.py")
PAGES = tuple(f"page-{number:02d}" for number in range(20))
NUMBERS = range(50)
ACCIDENTS = 9
#: What passes through the state, and does not stay.
PASSING = (prefix("host", "inbox"), prefix("host", "inbox-message"), prefix("default", "started"))


class Storm:
    """Three hosts over one broker and one state file."""

    def __init__(self, url: str, folder: Path, pick: random.Random) -> None:
        self.pick = pick
        self.namespace = f"order{uuid.uuid4().hex[:8]}"
        self.state = f"sqlite:///{folder / 'state.db'}"
        self.written: set[tuple[str, int]] = set()
        self.accidents: Counter[str] = Counter()
        self._config = folder / "rockbot.toml"
        self._config.write_text(
            f'broker_url = "{url}"\nstate_url = "{self.state}"\nnamespace = "{self.namespace}"\n'
            "artifacts.threshold_bytes = 4096\n"
            '[host]\nrecovery_seconds = 1\ndrain_seconds = 5\nlog_level = "WARNING"\n'
        )
        self._hosts: list[asyncio.subprocess.Process] = []
        settings = RabbitSettings(url=url, namespace=self.namespace, connect_timeout=60, confirm_timeout=60)
        self.bus = RabbitBus(settings, SystemClock(), RandomIds())

    async def open(self) -> None:
        await self.bus.open()
        await self.bus.declare([ENTRIES, WRITTEN])
        await self.bus.subscriber.subscribe(WRITTEN, self._told)
        await asyncio.gather(*(self.start_host() for _ in range(3)))

    async def start_host(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROCKBOT_")}
        host = await asyncio.create_subprocess_exec(
            sys.executable, str(HOST), str(self._config), stdout=asyncio.subprocess.PIPE, env=environment
        )
        self._hosts.append(host)
        assert host.stdout is not None
        async with asyncio.timeout(60):
            assert (await host.stdout.readline()).strip() == b"consuming", "a host did not start"

    async def close(self) -> None:
        for host in self._hosts:
            if host.returncode is None:
                os.kill(host.pid, signal.SIGTERM)
        for host in self._hosts:
            try:
                async with asyncio.timeout(60):
                    await host.wait()
            except TimeoutError:
                host.kill()
                await host.wait()
        await self.bus.close()

    async def _told(self, envelope: MessageEnvelope) -> Ack:
        told = Written.model_validate_json(envelope.body)
        self.written.add((told.page, told.number))
        return Ack()

    async def publish(self) -> None:
        for number in NUMBERS:
            await self.bus.publisher.publish_many([self._entry(page, number) for page in PAGES])

    def _entry(self, page: str, number: int) -> MessageEnvelope:
        fails, refused = int(number % 10 == PAGES.index(page) % 10), number == 25
        entry = Entry(page=page, number=number, fails=fails, refused=refused)
        return MessageEnvelope(
            topic="storm.entry",
            body=entry.to_body(),
            message_id=f"{self.namespace}-{page}-{number}",
            type=Entry.type_name,
            source="storm",
            conversation_id=page,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            for host in self._hosts:
                assert host.returncode is None, f"a host ended by itself with status {host.returncode}"
            await asyncio.sleep(0.02)

    async def storm(self, wanted: int) -> None:
        """One accident each time another share was written."""
        for number in range(ACCIDENTS):
            await self.until(lambda enough=number * wanted * 8 // 10 // ACCIDENTS: len(self.written) >= enough)  # type: ignore[misc]
            what = self.pick.choice(["killed", "killed", "cut", "cut", "drained"])
            self.accidents[what] += 1
            host = self.pick.choice(self._hosts)
            if what == "cut":
                os.kill(host.pid, signal.SIGUSR1)
                continue
            self._hosts.remove(host)
            os.kill(host.pid, signal.SIGKILL if what == "killed" else signal.SIGTERM)
            async with asyncio.timeout(60):
                await host.wait()
            await self.start_host()


@pytest.mark.timeout(240)
async def test_hosts_are_killed_and_cut_off_and_every_key_keeps_its_order_and_every_effect_is_there_once(
    amqp_url: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("ROCKBOT_TEST_SEED", "0")) or random.randrange(1, 2**32)
    print(f"seed {seed} (ROCKBOT_TEST_SEED repeats it)")
    storm = Storm(amqp_url, tmp_path, random.Random(seed))
    numbers = [number for number in NUMBERS if number != 25]
    wanted = {(page, number) for page in PAGES for number in numbers}
    try:
        async with asyncio.timeout(200):
            await storm.open()
            await asyncio.gather(storm.publish(), storm.storm(len(wanted)))
            await storm.until(lambda: storm.written >= wanted)
            while len(await storm.bus.dead_letters.letters(ENTRIES.name)) < len(PAGES):
                await asyncio.sleep(0.1)
            store = open_store(storm.state, SystemClock())
            await store.open()
            # What a dead host had begun and told of may still wait for whoever reads next.
            while any([await _names(store, left) for left in PASSING]):
                await asyncio.sleep(0.1)
    finally:
        await storm.close()
    print(dict(storm.accidents))
    assert storm.accidents.total() == ACCIDENTS
    pages = {page: (await store.get(page_key(page))) for page in PAGES}
    in_order = " ".join(map(str, numbers))
    assert {page: entry.value.decode() for page, entry in pages.items() if entry} == dict.fromkeys(PAGES, in_order)
    # Nothing is left of what passed through: no line, no message, no mark of a start.
    for left in PASSING:
        assert await _names(store, left) == []
    await store.close()


async def _names(store: object, under: Prefix) -> list[str]:
    page = await store.list(under, limit=10)  # type: ignore[attr-defined]
    return [entry.key for entry in page.entries]
