"""``up --feed``: the tasks of a file, done one after the other or all together, then what became a dead letter.

A line is a JSON object. ``{"input": "...", "agent": ..., "conversation_id": ...}`` is a task whose steps and answer are
shown; ``{"topic": "...", "body": ..., "type": ...}`` is published as it says (a body that is no text as JSON). Any other
line goes unread to the default agent, as a broken client would send it.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from rockbot import topics
from rockbot.cli.invocation import Invocation
from rockbot.cli.messages import show_answer
from rockbot.cli.render import Block, Facts
from rockbot.cli.views import step_line
from rockbot.events.tasks import AgentResponse
from rockbot.letters.models import LetterFilter, LetterRow
from rockbot.operator import Operator
from rockbot.operators.faults import ExitCode, InvalidRequest, TimedOut
from rockbot.settings import Settings
from rockbot_messaging.clock import Clock, SystemClock
from rockbot_messaging.errors import BodyTooLarge, HeadersTooLarge, InvalidTopic, Unroutable

__all__ = ["Feeder"]

#: Seconds that one task may take.
_TASK_TIMEOUT: Final = 300.0
#: Seconds in which a message that was only published may still become a dead letter, and between two looks.
_SETTLE_TIME: Final = 3.0
_LOOK: Final = 0.02
#: What is wrong with one line and says nothing about the next one.
_REFUSED: Final = (Unroutable, InvalidTopic, InvalidRequest, BodyTooLarge, HeadersTooLarge)
#: Letters that are told, the newest.
_LETTERS: Final = 100


@final
@dataclass(frozen=True, slots=True)
class _Ask:
    agent: str
    text: str
    conversation_id: str | None


@final
@dataclass(frozen=True, slots=True)
class _Publish:
    topic: str
    body: bytes
    type: str


def _lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines() if line.strip()]


@final
class Feeder:
    """Feeds one file to an embedded host."""

    def __init__(self, call: Invocation, operator: Operator, settings: Settings, *, clock: Clock | None = None) -> None:
        self._call = call
        self._screen = call.screen
        self._operator = operator
        self._settings = settings
        self._clock = clock or SystemClock()
        self._published: set[str] = set()

    async def run(self, path: Path, *, at_once: bool) -> int:
        """Do every line, then show the dead letters. 5 when a task was not answered in time, else 0: a failed task, a
        line that was refused and a dead letter are outcomes that were shown.

        Raises:
            Whatever the operator raises that is no single line's fault.
        """
        since_ms = self._clock.now_ms()
        lines = _lines(path)
        if at_once:
            late = await asyncio.gather(*(self._do(number, line, mark=True) for number, line in enumerate(lines, 1)))
        else:
            late = [await self._do(number, line, mark=False) for number, line in enumerate(lines, 1)]
        letters = await self._letters(since_ms)
        self._show(letters)
        return ExitCode.TIMED_OUT if any(late) else ExitCode.OK

    async def _do(self, number: int, line: bytes, *, mark: bool) -> bool:
        """One line; whether it ran out of time."""
        item = self._item(line)
        if isinstance(item, _Publish):
            self._screen.say(f"[{number}] {item.body[:200].decode('utf-8', 'replace')}", "strong")
            try:
                message = await self._operator.publish(item.topic, item.body, type=item.type)
            except _REFUSED as exc:
                self._screen.say(str(exc), "bad")
                return False
            self._published.add(message.message_id)
            self._screen.say(f"  .. published to {item.topic}", "dim")
            return False
        self._screen.say(f"[{number}] {item.text}", "strong")
        stream: Any = self._operator.ask(
            item.agent, item.text, conversation_id=item.conversation_id, timeout=_TASK_TIMEOUT
        )
        prefix = f"[{number}]" if mark else ""
        try:
            async with aclosing(stream):
                async for event in stream:
                    if isinstance(event, AgentResponse):
                        if mark:
                            self._screen.say(f"[{number}] answer", "strong")
                        show_answer(self._call, event)
                    elif event.kind != "ended":
                        text, tone = step_line(event)
                        self._screen.signal(event, prefix + text, tone)
                        if event.kind == "stalled":
                            break
        except _REFUSED as exc:
            self._screen.say(str(exc), "bad")
        except TimedOut as exc:
            self._screen.say(str(exc), "bad")
            return True
        return False

    def _item(self, line: bytes) -> _Ask | _Publish:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            if isinstance(value.get("input"), str) and value["input"]:
                agent = value.get("agent", self._settings.default_agent)
                return _Ask(str(agent), value["input"], value.get("conversation_id"))
            if isinstance(value.get("topic"), str):
                body = value.get("body", "")
                content = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
                return _Publish(value["topic"], content.encode(), str(value.get("type", "")))
        return _Publish(topics.task(self._settings.default_agent), line, "")

    async def _letters(self, since_ms: int) -> list[LetterRow]:
        """What died since then; waits a little for messages whose end nobody announces."""
        until = asyncio.get_running_loop().time() + _SETTLE_TIME
        desk = self._operator.dead_letters
        while True:
            page = await desk.find(LetterFilter(since_ms=since_ms), limit=_LETTERS, order="newest")
            letters = sorted(page.letters, key=lambda letter: letter.at_ms)
            if self._published <= {letter.id for letter in letters} or asyncio.get_running_loop().time() > until:
                return letters
            await asyncio.sleep(_LOOK)

    def _with_flags(self, line: str) -> str:
        """A command line as it has to be typed to reach this host's successor."""
        return line.replace("rockbot", self._call.program, 1)

    def _show(self, letters: list[LetterRow]) -> None:
        if not letters:
            self._screen.say("no dead letters", "good")
            return
        count = "1 dead letter" if len(letters) == 1 else f"{len(letters)} dead letters"
        self._screen.say(f"{count}: kept where somebody can read why, mend it and send it on", "warn")
        blocks: list[Block] = [
            Facts(
                (
                    ("reason", letter.reason),
                    ("topic", letter.topic),
                    ("read it", self._with_flags(f"rockbot dlq show {letter.queue} {letter.id}")),
                    ("send it on", self._with_flags(f"{letter.replay_command} --edit")),
                )
            )
            for letter in letters
        ]
        self._screen.show(letters, blocks)
        if self._settings.state_address.startswith("memory:"):
            self._screen.say("(the state was in memory: it ends with this process)", "dim")
        else:
            self._screen.say(f"(these commands talk to a running host; start it with: {self._call.program} up)", "dim")
