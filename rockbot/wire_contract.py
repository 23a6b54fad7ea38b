"""The wire contract as documents for other languages: one JSON Schema per event, and an AsyncAPI document over them.

Pure: made from the event registry alone, so what a program generates code from is what the host reads. The documents are
committed under ``design/contract``; a test says when they are no longer what the events are.
"""

from __future__ import annotations

import inspect
import json
from typing import Any, Final

from rockbot.events.event import Event
from rockbot.events.registry import EventRegistry
from rockbot_messaging.ports import Door

__all__ = ["ASYNCAPI", "contract_documents"]

#: Name of the AsyncAPI document; schemas lie in the folder ``schemas`` beside it.
ASYNCAPI: Final = "asyncapi.json"

_EXCHANGES: Final = {Door.PUBLIC: "rockbot", Door.COMMANDS: "rockbot.commands", Door.LOSSY: "rockbot.lossy"}


def contract_documents(registry: EventRegistry) -> dict[str, str]:
    """Every document by its path below the contract's folder, with a newline at its end. Equal registries, equal texts."""
    events = sorted(registry, key=lambda event: event.type_name)
    documents = {_schema_path(event): _text(_schema(event)) for event in events}
    documents[ASYNCAPI] = _text(_asyncapi(events))
    return documents


def _schema(event: type[Event]) -> dict[str, Any]:
    schema = event.model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": event.type_name,
        **schema,
        "title": event.type_name,
        "description": inspect.cleandoc(event.__doc__ or ""),
    }


def _asyncapi(events: list[type[Event]]) -> dict[str, Any]:
    channels: dict[str, dict[str, Any]] = {}
    for event in events:
        for name, channel in _channels(event):  # one topic may carry several events
            channels.setdefault(name, channel)["messages"].update(channel["messages"])
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "RockBot",
            "version": "1",
            "description": (
                "Messages of the host on its topic exchanges. Properties and headers, identity, retries and trust are in"
                " design/wire-contract.md. Exchanges are named for the default namespace."
            ),
        },
        "defaultContentType": "application/json",
        "channels": dict(sorted(channels.items())),
        "operations": {
            f"{'receive' if event.door is Door.COMMANDS else 'send'}:{name}": {
                "action": "receive" if event.door is Door.COMMANDS else "send",
                "channel": {"$ref": f"#/channels/{_pointer(name)}"},
            }
            for event in events
            for name, _ in _channels(event)
        },
        "components": {"messages": {event.type_name: _message(event) for event in events}},
    }


def _channels(event: type[Event]) -> list[tuple[str, dict[str, Any]]]:
    """The channels of an event: one per topic pattern, or one without an address for what goes to a return address."""
    messages = {event.type_name: {"$ref": f"#/components/messages/{event.type_name}"}}
    if not event.topics:
        description = "Sent to the return address of the message that it answers."
        return [(event.type_name, {"address": None, "description": description, "messages": messages})]
    found: list[tuple[str, dict[str, Any]]] = []
    for pattern in event.topics:
        words = pattern.split(".")
        wild = [f"word{at}" for at, word in enumerate(words, start=1) if word in ("*", "#")]
        address = ".".join(f"{{word{at}}}" if word in ("*", "#") else word for at, word in enumerate(words, start=1))
        channel: dict[str, Any] = {"address": address, "messages": messages, "bindings": _binding(event)}
        if wild:
            channel["parameters"] = {name: {"description": "A topic word: A-Z a-z 0-9 _ -"} for name in wild}
        found.append((address, channel))
    return found


def _binding(event: type[Event]) -> dict[str, Any]:
    exchange = {"name": _EXCHANGES[event.door], "type": "topic", "durable": True}
    return {"amqp": {"is": "routingKey", "exchange": exchange}}


def _message(event: type[Event]) -> dict[str, Any]:
    summary = inspect.cleandoc(event.__doc__ or "").partition("\n")[0]
    return {"name": event.type_name, "summary": summary, "payload": {"$ref": f"./{_schema_path(event)}"}}


def _schema_path(event: type[Event]) -> str:
    return f"schemas/{event.type_name}.json"


def _pointer(name: str) -> str:
    """A key as a part of a JSON pointer in a URI fragment."""
    return name.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
