"""How Anthropic's API is reached: checked, and printed, without its package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import final

from rockbot.errors import ConfigError
from rockbot.settings import AnthropicSettings
from rockbot_handlers.llm.http_access import check_address, check_header

__all__ = ["AnthropicAccess", "anthropic_access"]


@final
@dataclass(frozen=True, slots=True)
class AnthropicAccess:
    """The API as it is to be used; `base_url` None is Anthropic's own, `timeout` (seconds) bounds one attempt.

    `native_output` says whether the API is told the schema of a structured reply, or the model, in words.
    """

    key: str
    base_url: str | None
    timeout: float
    native_output: bool = True

    def __repr__(self) -> str:
        return f"AnthropicAccess(base_url={self.base_url!r})"


def anthropic_access(settings: AnthropicSettings) -> AnthropicAccess:
    """What settings and environment make together.

    Raises:
        ConfigError: there is no key, or it or the address cannot be one; the text names the setting.
    """
    setting = settings.api_key.get_secret_value() if settings.api_key is not None else ""
    key = setting.strip() or os.environ.get("ANTHROPIC_API_KEY", "").strip()
    if not key:
        raise ConfigError("provider 'anthropic' needs a key: set anthropic.api_key or ANTHROPIC_API_KEY")
    check_header("anthropic.api_key (or ANTHROPIC_API_KEY)", key)
    base_url = settings.base_url or os.environ.get("ANTHROPIC_BASE_URL") or None
    if base_url is not None:
        check_address("anthropic.base_url (or ANTHROPIC_BASE_URL)", base_url)
    return AnthropicAccess(key, base_url, settings.timeout_seconds, settings.structured_output == "json_schema")
