"""Which dead letters a command is about: named by ids, filtered, or all of a queue."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, final

import typer

from rockbot.cli.invocation import Invocation

if TYPE_CHECKING:
    from rockbot.letters.desk import LetterDesk
    from rockbot.letters.models import LetterFilter, LetterRow

__all__ = ["Given", "Queue", "Where", "filtered", "instant_ms", "letter_filter", "named", "parted", "selection"]

Queue = Annotated[str | None, typer.Argument(help="One queue only.", show_default=False)]
Where = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[QUEUE] ID",
        help="Which letters; ids may be shortened to 6 characters, or be the publisher's own.",
        show_default=False,
    ),
]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")

#: Characters of an id that a person has to type at least.
_SHORTEST: Final = 6
#: Letters that one page of a search has at most.
_PAGE: Final = 1000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The filter options of one command, as typed."""

    type: str | None = None
    error: str | None = None
    handler: str | None = None
    topic: str | None = None
    conversation: str | None = None
    task: str | None = None
    text: str | None = None
    group: str | None = None
    since: str | None = None
    before: str | None = None

    @property
    def used(self) -> bool:
        """Whether there is one."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    @property
    def but_type(self) -> Given:
        """The options without the type, which is something else to a command that mends."""
        return replace(self, type=None)


_HELP: Final = {
    "type": "Messages of this type.",
    "error": "Died of this error class.",
    "handler": "Failed in this handler.",
    "topic": "Published to this topic; * and # as in a binding.",
    "conversation": "Of this conversation.",
    "task": "Of this task.",
    "text": "With this text in reason, topic, type, source, an id of the publisher's, or the beginning of the body.",
    "group": "Of this group (see `dlq groups`).",
    "since": "Died at or after this instant: 2026-01-31T08:00 (UTC), or 2h, 3d ago.",
    "before": "Died before this instant.",
}


def filtered(function: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., Any]:
    """Give a command the filter options; it gets them together as its parameter `given`."""
    signature = inspect.signature(function, eval_str=True)

    async def run(call: Invocation, **values: Any) -> int | None:
        given = Given(**{name: values.pop(name) for name in _HELP})
        return await function(call, given=given, **values)

    own = [parameter for name, parameter in signature.parameters.items() if name != "given"]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None, typer.Option(f"--{name}", help=text, show_default=False, rich_help_panel="Which letters")
            ],
        )
        for name, text in _HELP.items()
    ]
    first, rest = own[0], [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own[1:]]
    run.__signature__ = inspect.Signature([first, *rest, *options])  # type: ignore[attr-defined]
    run.__doc__ = function.__doc__
    run.__name__ = function.__name__
    return run


def instant_ms(text: str, now_ms: int, *, ahead: bool = False) -> int:
    """An instant in epoch milliseconds: ISO 8601 (UTC unless it says otherwise), or a span before (`ahead`: after) now.

    Raises:
        BadParameter: it is neither.
    """
    if span := _SPAN.fullmatch(text):
        milliseconds = round(float(span[1]) * _UNITS[span[2]] * 1000)
        return now_ms + milliseconds if ahead else max(0, now_ms - milliseconds)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no instant: write 2026-01-31, 2026-01-31T08:00 or 2h, 3d") from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def letter_filter(given: Given, *, queue: str | None = None, ids: Sequence[str] = ()) -> LetterFilter:
    """The filter that the options make.

    Raises:
        BadParameter: an instant is none.
    """
    from rockbot.letters.models import LetterFilter
    from rockbot_messaging.clock import SystemClock

    now_ms = SystemClock().now_ms()
    return LetterFilter(
        queue=queue,
        ids=tuple(ids),
        type=given.type,
        error=given.error,
        handler=given.handler,
        topic=given.topic,
        conversation=given.conversation,
        task=given.task,
        text=given.text,
        group=given.group,
        since_ms=None if given.since is None else instant_ms(given.since, now_ms),
        before_ms=None if given.before is None else instant_ms(given.before, now_ms),
    )


async def parted(desk: LetterDesk, where: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Queue and ids of ``[QUEUE] [ID]...``: the first word is a queue when there is one of that name."""
    if not where:
        return None, ()
    known = {"discarded"}
    for queue in await desk.queues():
        known |= {queue.name, queue.subscription, queue.name.removesuffix(".dlq")}
    return (where[0], tuple(where[1:])) if where[0] in known else (None, tuple(where))


async def selection(
    desk: LetterDesk, where: Sequence[str] | None, given: Given, *, all_of_them: bool
) -> tuple[LetterFilter, list[LetterRow]]:
    """What a command works on: a filter, and the letters themselves where they were named by ids.

    Raises:
        BadParameter: nothing was selected, or in two ways at once. LetterNotFound: an id means no letter, or several.
    """
    where = list(where or ())
    if given.used or all_of_them:
        if len(where) > 1:
            raise typer.BadParameter("name letters by their ids, or select them by filters: not both")
        return letter_filter(given, queue=where[0] if where else None), []
    queue, ids = await parted(desk, where)
    if not ids:
        hint = f"all letters of {queue} are meant by --all" if queue else "every letter there is by --all"
        raise typer.BadParameter(f"say which letters: by ids, filters or --group; {hint}")
    rows = await named(desk, queue, ids)
    places = {row.queue for row in rows}
    return letter_filter(given, queue=queue or _only(places), ids=[row.id for row in rows]), rows


async def named(desk: LetterDesk, queue: str | None, ids: Sequence[str]) -> list[LetterRow]:
    """The letters that ids or their beginnings mean, one for each.

    Raises:
        LetterNotFound: there is none, or more than one.
    """
    return [await _one(desk, queue, letter_id) for letter_id in dict.fromkeys(ids)]


async def _one(desk: LetterDesk, queue: str | None, letter_id: str) -> LetterRow:
    from rockbot.letters.models import LetterFilter
    from rockbot_messaging.errors import LetterNotFound
    from rockbot_messaging.letters import DISCARDED

    page = await desk.find(LetterFilter(queue=queue, ids=(letter_id,)), limit=_PAGE)
    rows = [row for row in page.letters if row.id == letter_id] or list(page.letters)
    if not rows:
        if len(letter_id) < _SHORTEST:
            raise LetterNotFound(
                f"{letter_id!r} is too short for the beginning of an id: give {_SHORTEST} characters or more"
            )
        away = queue is None and (await desk.find(LetterFilter(queue=DISCARDED, ids=(letter_id,)), limit=1)).total
        hint = f"; it was discarded: rockbot dlq show {DISCARDED} {letter_id}" if away else ""
        raise LetterNotFound(f"no letter {letter_id!r} lies in {queue or 'any dead-letter queue'}{hint}")
    found = {row.id: row for row in rows}
    if len(found) > 1:
        raise LetterNotFound(f"{letter_id!r} may mean {', '.join(list(found)[:5])}: give more of the id")
    places = sorted({row.queue for row in rows})
    if len(places) > 1:
        raise LetterNotFound(
            f"letter {letter_id!r} lies in more than one queue ({', '.join(places)}): name the queue too"
        )
    return rows[0]


def _only(places: set[str]) -> str | None:
    return next(iter(places)) if len(places) == 1 else None
