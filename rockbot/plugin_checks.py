"""Plug-ins are other people's code: what one does wrong is told with its name, before a host starts."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path
from typing import TypeGuard

from rockbot.errors import ConfigError, RockBotError
from rockbot.events.event import Event
from rockbot.plugins import Contribution, Link, Plugin, Services

__all__ = ["checked"]


def checked(name: str, plugin: Plugin) -> Plugin:
    """`plugin`, whose mistakes are errors of the setting that named it.

    Raises (when it is called):
        ConfigError: it failed, or contributes what is no contribution. Whatever of ours it raises itself.
    """

    def build(services: Services) -> Contribution:
        try:
            made: object = plugin(services)
        except RockBotError:
            raise
        except Exception as exc:
            at = traceback.extract_tb(exc.__traceback__)[-1]
            raise ConfigError(
                f"handler {name!r} cannot be set up: {type(exc).__name__}: {exc} (line {at.lineno} of"
                f" {Path(at.filename).name})"
            ) from exc
        if not isinstance(made, Contribution):
            raise ConfigError(f"handler {name!r} has to return a Contribution, not {type(made).__name__}")
        for event in made.events:
            _check_event(name, event)
        for link in made.links:
            _check_link(name, link)
        return made

    return build


def _check_event(name: str, event: object) -> None:
    if not _is_event(event):
        raise ConfigError(f"handler {name!r} contributes {event!r} as an event, which is no subclass of Event")
    if not isinstance(getattr(event, "type_name", None), str):
        raise ConfigError(
            f"handler {name!r} contributes the event {event.__name__} without a type_name:"
            ' it needs one of its own, as `type_name: ClassVar[str] = "shop.payment"`'
        )


def _check_link(name: str, link: Link) -> None:
    handler = type(link.handler).__name__
    handles = getattr(link.handler, "handles", None)
    if not isinstance(handles, tuple) or not all(map(_is_event, handles)):
        raise ConfigError(
            f"the link {link.name!r} of handler {name!r} has to name the events it wants:"
            f" `handles` of {handler} is a tuple of event classes"
        )
    if not _may_be_awaited(getattr(link.handler, "handle", None)):
        raise ConfigError(
            f"the link {link.name!r} of handler {name!r} needs `async def handle(self, event, context, call_next)`"
            f" in {handler}"
        )


def _may_be_awaited(handle: object) -> bool:
    """Whatever returns an awaitable will do; a function that says it returns nothing has none."""
    if not callable(handle):
        return False
    says = getattr(handle, "__annotations__", {}).get("return", "")
    return inspect.iscoroutinefunction(handle) or says not in (None, "None")


def _is_event(value: object) -> TypeGuard[type[Event]]:
    return isinstance(value, type) and issubclass(value, Event)
