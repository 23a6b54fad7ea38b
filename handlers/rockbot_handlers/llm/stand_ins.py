"""What stands where a real model would be: a cassette, or the ban; or a recorder around it."""

from __future__ import annotations

from collections.abc import Callable

from rockbot.llm import LlmClient
from rockbot.settings import Settings

__all__ = ["stood_in"]


def stood_in(settings: Settings, provider: str, open_client: Callable[[], LlmClient]) -> LlmClient:
    """The client of a provider as the settings want it; `open_client` is not called where no real one is wanted.

    Raises:
        ConfigError: the cassette cannot be read. What `open_client` raises.
    """
    cassette = settings.cassette
    if provider == "scripted":
        return open_client()
    if cassette.file is not None and not cassette.record:
        from rockbot_handlers.llm.cassettes import PlayingClient

        return PlayingClient(cassette.file)
    if not settings.allow_model_calls:
        from rockbot_handlers.llm.forbidden import ForbiddenClient

        return ForbiddenClient()
    client = open_client()
    if cassette.file is not None:
        from rockbot_handlers.llm.cassettes import RecordingClient

        return RecordingClient(client, cassette.file)
    return client
