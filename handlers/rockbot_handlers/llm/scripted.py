"""The offline model: plays rules and says plainly that it is no language model.

Equal requests under equal call ids give equal replies, tool call ids included, so that whole conversations can be
scripted for demonstrations and tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, Final, final

from rockbot.errors import ConfigError
from rockbot.events import (
    ContentPart,
    FilePart,
    JsonPart,
    LlmRequest,
    LlmResponse,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
    text_of,
)
from rockbot.llm import LlmError, LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome, TextDelta
from rockbot.settings import Settings
from rockbot_handlers.llm.arithmetic import find_expression
from rockbot_handlers.llm.rules import Fault, Rule, Script, builtin_scripts, load_scripts
from rockbot_messaging.identity import derive_id

__all__ = ["ScriptedClient", "open_scripted"]

#: Characters in one piece of a streamed reply.
_PIECE: Final = 24


def open_scripted(settings: Settings) -> ScriptedClient:
    """The client for the built-in scripts and those of the setting `scripted.rules`, which go first.

    Raises:
        ConfigError: the rule file is wrong.
    """
    scripts = builtin_scripts()
    if settings.scripted.rules is not None:
        scripts |= load_scripts(settings.scripted.rules)
    return ScriptedClient(scripts, call_log=settings.scripted.call_log)


@final
@dataclass(frozen=True, slots=True)
class _Scene:
    """What the rules look at."""

    last: str
    user: str
    result: str
    failed: bool
    step: int
    offers: frozenset[str]
    expression: str | None

    @classmethod
    def of(cls, request: LlmRequest) -> _Scene:
        messages = request.messages
        results = [part for part in messages[-1].parts if isinstance(part, ToolResultPart)] if messages else []
        asked = next((at for at in range(len(messages) - 1, -1, -1) if _is_text_of_user(messages[at])), 0)
        user = messages[asked].text if messages else ""
        return cls(
            last="tool" if results else "user",
            user=user,
            result="\n\n".join(_result_text(part) for part in results),
            failed=any(part.is_error for part in results),
            step=1 + sum(message.role == "assistant" for message in messages[asked:]),
            offers=frozenset(tool.name for tool in request.tools),
            expression=find_expression(user),
        )


@final
@dataclass(slots=True)
class _Faults:
    """How often each call was made to fail already."""

    made: dict[tuple[str, str], int] = field(default_factory=dict)

    def next(self, rule: Rule, call_id: str) -> Fault | None:
        if rule.fail is None:
            return None
        made = self.made.get((call_id, rule.name), 0)
        if made >= rule.fail.times:
            return None
        self.made[call_id, rule.name] = made + 1
        return rule.fail


@final
class ScriptedClient:
    """Implements `rockbot.llm.LlmClient` without any model.

    Every call actually made is one line in `call_log`: JSON with call id, script, step and outcome.
    """

    def __init__(self, scripts: Mapping[str, Script], *, call_log: Path | None = None) -> None:
        self._scripts = dict(scripts)
        self._call_log = call_log
        self._faults = _Faults()

    def check(self, model: str) -> None:
        """See whether a model is one of the scripts.

        Raises:
            ConfigError: it is not; the text lists them.
        """
        if model not in self._scripts:
            raise ConfigError(f"there is no script {model!r} (known: {', '.join(sorted(self._scripts))})")

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:  # noqa: ARG002
        """Play the first rule that fits.

        Raises:
            LlmPermanent: no script has this name, or none of its rules fits. The error that the rule asks for.
        """
        name = request.model.partition("/")[2]
        script = self._scripts.get(name)
        if script is None:
            raise LlmPermanent(f"scripted: there is no script {name!r} (known: {', '.join(sorted(self._scripts))})")
        scene = _Scene.of(request)
        for rule in script.rules:
            groups = _fits(rule, scene)
            if groups is None:
                continue
            if (fault := self._faults.next(rule, call_id)) is not None:
                await self._note(call_id, name, scene, fault.error)
                raise _failure(fault, rule)
            if not rule.reply and not rule.calls:
                continue
            reply = _reply(rule, groups, call_id)
            words = len(text_of(reply.parts).split()) + len(reply.tool_calls)
            usage = Usage(input_tokens=_words_in(request), output_tokens=words)
            stop = rule.stop_reason or ("tool_use" if reply.tool_calls else "end_turn")
            await self._note(call_id, name, scene, "answered")
            return LlmResponse(message=reply, stop_reason=stop, model=request.model, usage=usage)
        raise LlmPermanent(f"scripted: no rule of script {name!r} fits step {scene.step} of this conversation")

    async def stream(
        self, request: LlmRequest, *, call_id: str, deadline: float | None
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        """The same reply in pieces."""
        response = await self.complete(request, call_id=call_id, deadline=deadline)
        text = response.message.text
        for at in range(0, len(text), _PIECE):
            yield TextDelta(text[at : at + _PIECE])
        yield response

    async def count_tokens(self, request: LlmRequest) -> int:
        """Words, for want of tokens."""
        return _words_in(request)

    async def close(self) -> None:
        """Nothing is held open."""

    async def _note(self, call_id: str, script: str, scene: _Scene, outcome: str) -> None:
        if self._call_log is not None:
            line = json.dumps({"call_id": call_id, "script": script, "step": scene.step, "outcome": outcome})
            await asyncio.to_thread(_append_line, self._call_log, line)


def _append_line(path: Path, line: str) -> None:
    # One write to a descriptor opened for appending: lines of several processes never mix, and a kill loses none.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def _is_text_of_user(message: Message) -> bool:
    return message.role == "user" and any(isinstance(part, TextPart) for part in message.parts)


def _result_text(result: ToolResultPart) -> str:
    return "\n".join(text for part in result.parts if (text := _said(part)))


def _said(part: ContentPart) -> str:
    match part:
        case TextPart():
            return part.text
        case JsonPart():
            return json.dumps(part.data, ensure_ascii=False)
        case FilePart():
            return f"[file {part.name or part.uri} ({part.media_type}) at {part.uri}]"
    return ""


def _fits(rule: Rule, scene: _Scene) -> dict[str, str] | None:
    """The placeholders of a rule that fits, or None."""
    when = rule.when
    if when.last not in (None, scene.last) or when.step not in (None, scene.step):
        return None
    if when.failed not in (None, scene.failed) or not scene.offers.issuperset(when.offers):
        return None
    if when.find == "arithmetic" and scene.expression is None:
        return None
    values = {"user": scene.user, "result": scene.result, "step": str(scene.step), "expression": scene.expression or ""}
    for pattern, text in ((when.user, scene.user), (when.result, scene.result)):
        if pattern is not None:
            match = re.search(pattern, text)
            if match is None:
                return None
            values |= {name: value or "" for name, value in match.groupdict().items()}
    return values


def _reply(rule: Rule, values: Mapping[str, str], call_id: str) -> Message:
    parts: list[TextPart | ToolCallPart] = []
    if text := Template(rule.reply).substitute(values).strip():
        parts.append(TextPart(text=text))
    for number, call in enumerate(rule.calls):
        identity = f"call-{derive_id(call_id, f'tool call {number}')}"
        arguments = {name: _filled(value, values) for name, value in call.arguments.items()}
        parts.append(ToolCallPart(call_id=identity, tool=call.tool, arguments=arguments))
    return Message(role="assistant", parts=tuple(parts))


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return Template(value).substitute(values)
    if isinstance(value, dict):
        return {name: _filled(item, values) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    return value


def _failure(fault: Fault, rule: Rule) -> LlmError:
    text = f"scripted: {fault.message} (rule {rule.name!r})"
    match fault.error:
        case "transient":
            return LlmTransient(text, after=fault.after)
        case "throttled":
            return LlmThrottled(text, after=fault.after or 0.0)
        case "unknown":
            return LlmUnknownOutcome(text)
        case "permanent":
            return LlmPermanent(text)


def _words_in(request: LlmRequest) -> int:
    return len(request.system.split()) + sum(len(message.text.split()) for message in request.messages)
