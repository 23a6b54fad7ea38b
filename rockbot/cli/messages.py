"""``publish`` and ``ask``."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from rockbot.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from rockbot.cli.render import Screen
    from rockbot.events.tasks import AgentResponse
    from rockbot.operators.models import ReplyPiece

__all__ = ["read_body", "register"]

#: Seconds that `ask` waits unless told otherwise.
_ASK_TIMEOUT = 300.0

BodyText = Annotated[str | None, typer.Option("--body", help="The body, as text.", show_default=False)]
BodyFile = Annotated[
    Path | None, typer.Option("--file", help="Read the body from a file; - is standard input.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app, "publish")(publish)
    command(app, "ask")(ask)


async def publish(
    call: Invocation,
    topic: Annotated[str, typer.Argument(help="For example agent.task.assistant.", show_default=False)],
    source: Annotated[
        str | None, typer.Argument(metavar="[-]", help="- reads the body from standard input.", show_default=False)
    ] = None,
    body: BodyText = None,
    file: BodyFile = None,
    type: Annotated[str, typer.Option("--type", help="Event type; by default told by the topic.")] = "",
    header: Annotated[
        list[str] | None, typer.Option("--header", help="A header k=v; may be repeated.", show_default=False)
    ] = None,
    correlation: Annotated[
        str | None, typer.Option("--correlation", help="Correlation id.", show_default=False)
    ] = None,
    conversation: Annotated[
        str | None, typer.Option("--conversation", help="Conversation id.", show_default=False)
    ] = None,
) -> None:
    """Publish one message to a topic."""
    from rockbot.cli.views import published_blocks

    if source not in (None, "-"):
        raise typer.BadParameter(f"{source!r} is no source of a body: use -, --body TEXT or --file PATH")
    if source == "-":
        if file is not None:
            raise typer.BadParameter("the body can come from one place only: use -, --body or --file")
        file = Path("-")
    content = read_body(body, file)
    if content is None:
        raise typer.BadParameter("give the message a body: --body TEXT, --file PATH or -")
    headers: dict[str, Any] = {}
    for item in header or ():
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"--header {item!r} is not of the form k=v")
        headers[name] = value
    async with call.operator() as operator:
        message = await operator.publish(
            topic, content, type=type, correlation_id=correlation, conversation_id=conversation, headers=headers
        )
    call.screen.show(message, published_blocks(message, "published"))


async def ask(
    call: Invocation,
    agent: Annotated[str, typer.Argument(help="For example assistant.", show_default=False)],
    text: Annotated[str, typer.Argument(help="What it is asked; - reads standard input.", show_default=False)],
    conversation: Annotated[
        str | None, typer.Option("--conversation", help="Go on with a conversation.", show_default=False)
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.001, help="Seconds to wait; the task itself goes on.")
    ] = _ASK_TIMEOUT,
    stream: Annotated[bool, typer.Option("--stream", help="Print what the model says while it says it.")] = False,
) -> int:
    """Give an agent a task, show its steps as they happen, print its answer."""
    from rockbot.cli.views import step_line
    from rockbot.events.tasks import AgentResponse
    from rockbot.operators.models import ReplyPiece

    if text == "-":
        text = sys.stdin.read()
    async with call.operator() as operator:
        events: Any = operator.ask(agent, text, conversation_id=conversation, timeout=timeout, stream=stream)
        spoken = Spoken(call.screen)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, ReplyPiece):
                    spoken.hear(event)
                    continue
                spoken.pause()
                if isinstance(event, AgentResponse):
                    return show_answer(call, event, shown=spoken.text)
                if event.kind != "ended" or call.screen.json:
                    call.screen.signal(event, *step_line(event))
    raise AssertionError("a stream of a task ends with its answer or an error")


@final
class Spoken:
    """What a model says, on the screen while it says it."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._call = ""
        self._open = False
        #: The last reply, as far as it is shown.
        self.text = ""

    def hear(self, piece: ReplyPiece) -> None:
        """Show what is new."""
        if self._screen.json:
            self._screen.signal(piece, "")
            return
        if piece.reset:
            self.pause()
            self._screen.say("the model begins its reply anew", "warn")
        if piece.reset or piece.call_id != self._call:
            self._call, self.text = piece.call_id, ""
        self.text += piece.text
        self._screen.piece(piece.text)
        self._open = self._open or bool(piece.text)
        if piece.done:
            self.pause()

    def pause(self) -> None:
        """End the line, if one was begun."""
        if self._open:
            self._screen.piece("\n")
            self._open = False


def show_answer(call: Invocation, response: AgentResponse, *, shown: str = "") -> int:
    """Print an answer: the text to standard output, why there is none to standard error. Returns the exit code.

    `shown` is what stands there already; an answer that is the same is not printed twice.
    """
    screen = call.screen
    if screen.json:
        screen.show(response, ())
    elif response.output and response.output != shown:
        screen.text(response.output)
    if response.status == "completed":
        if response.stop_reason != "end_turn" and not screen.json:
            screen.say(_cut_short(response.stop_reason), "warn")
        return 0
    if not screen.json:
        reason = f": {response.error.message}" if response.error else ""
        screen.say(f"task {response.status}{reason}", "bad")
    return 1


def _cut_short(stop_reason: str) -> str:
    if stop_reason == "max_tokens":
        return "the answer is cut off: the model reached its limit of output tokens (max_output_tokens of the agent)"
    return f"the model did not end its answer by itself: {stop_reason}"


def read_body(text: str | None, file: Path | None) -> bytes | None:
    """A body from ``--body`` or ``--file``; None when neither is given."""
    if text is not None and file is not None:
        raise typer.BadParameter("the body can come from one place only: use --body or --file")
    if text is not None:
        return text.encode("utf-8", "surrogateescape")
    if file is None:
        return None
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as exc:
        raise typer.BadParameter(f"cannot read {file}: {exc.strerror}") from None
