"""Servers that speak chat completions, by name: where they listen, where their key comes from, how they differ.

Pure data, so that settings can be checked, and printed, without any provider's package. A preset is a starting point: every
value of it can be set under `providers.<name>`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

from rockbot.errors import ConfigError
from rockbot.settings import OpenAiSettings
from rockbot_handlers.llm.http_access import check_address, check_header

__all__ = ["PRESETS", "Endpoint", "Preset", "endpoint_of"]

#: How a server is told what shape a reply shall have; see `rockbot.settings_providers.OpenAiSettings`.
StructuredOutput = Literal["json_schema", "json_object", "prompt"]
#: The field that bounds a reply; servers know one of the two, some both.
OutputLimit = Literal["max_tokens", "max_completion_tokens"]


@final
@dataclass(frozen=True, slots=True)
class Preset:
    """One server; `key_needed` False for those that usually run on one's own machine, without keys."""

    base_url: str
    key_variable: str
    key_needed: bool = True
    output_limit: OutputLimit = "max_tokens"
    reasoning: bool = True
    base_url_variable: str = ""
    structured_output: StructuredOutput = "json_schema"


@final
@dataclass(frozen=True, slots=True)
class Endpoint:
    """A provider as it is to be used; `key` empty means that none is sent.

    `images` and `reasoning` say whether the server takes images, and its own reasoning of earlier replies back.
    """

    provider: str
    base_url: str
    key: str
    headers: Mapping[str, str]
    timeout: float
    output_limit: OutputLimit = "max_tokens"
    images: bool = True
    reasoning: bool = True
    structured_output: StructuredOutput = "json_schema"

    def __repr__(self) -> str:
        return f"Endpoint({self.provider!r}, base_url={self.base_url!r})"


#: What of them was found in whose documentation is told by the table in docs/models.md.
PRESETS: Final[Mapping[str, Preset]] = {
    "openai": Preset(
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        output_limit="max_completion_tokens",
        base_url_variable="OPENAI_BASE_URL",
    ),
    "ollama": Preset("http://localhost:11434/v1", "OLLAMA_API_KEY", key_needed=False),
    "vllm": Preset("http://localhost:8000/v1", "VLLM_API_KEY", key_needed=False),
    "llamacpp": Preset("http://localhost:8080/v1", "LLAMA_API_KEY", key_needed=False),
    "lmstudio": Preset("http://localhost:1234/v1", "LM_API_TOKEN", key_needed=False),
    "openrouter": Preset("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    # Groq refuses messages with fields that it does not know.
    "groq": Preset(
        "https://api.groq.com/openai/v1", "GROQ_API_KEY", output_limit="max_completion_tokens", reasoning=False
    ),
    "deepseek": Preset("https://api.deepseek.com", "DEEPSEEK_API_KEY", structured_output="json_object"),
    "gemini": Preset("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "zhipu": Preset("https://open.bigmodel.cn/api/paas/v4", "ZHIPUAI_API_KEY", structured_output="json_object"),
    "huggingface": Preset("https://router.huggingface.co/v1", "HF_TOKEN"),
}


def endpoint_of(provider: str, settings: OpenAiSettings) -> Endpoint:
    """What the settings, the preset of that name and the environment make together, in this order.

    Raises:
        ConfigError: the key or the address is missing, or one of them or a header cannot be one; the text names the setting.
    """
    preset = PRESETS.get(provider)
    base_url, variable = settings.base_url or "", ""
    if preset is not None:
        variable = preset.key_variable
        base_url = base_url or os.environ.get(preset.base_url_variable, "").strip() or preset.base_url
    if not base_url:
        raise ConfigError(
            f"provider {provider!r} needs an address: set providers.{provider}.base_url "
            f"(providers with a preset: {', '.join(sorted(PRESETS))})"
        )
    check_address(f"providers.{provider}.base_url", base_url)
    setting = settings.api_key.get_secret_value() if settings.api_key is not None else ""
    key = setting.strip() or (os.environ.get(variable, "").strip() if variable else "")
    # Whoever names an address of one's own, or headers, may have a gateway there that needs no key of ours.
    needed = preset is not None and preset.key_needed and not settings.base_url and not settings.headers
    if needed and not key:
        raise ConfigError(f"provider {provider!r} needs a key: set providers.{provider}.api_key or {variable}")
    check_header(f"providers.{provider}.api_key" + (f" (or {variable})" if variable else ""), key)
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    for name, value in headers.items():
        check_header(f"providers.{provider}.headers.{name}", value)
    limit: OutputLimit = preset.output_limit if preset is not None else "max_tokens"
    structured: StructuredOutput = preset.structured_output if preset is not None else "json_schema"
    return Endpoint(
        provider=provider,
        base_url=base_url,
        key=key,
        headers=headers,
        timeout=settings.timeout_seconds,
        output_limit=settings.output_limit or limit,
        images=settings.images,
        reasoning=settings.reasoning if settings.reasoning is not None else preset is None or preset.reasoning,
        structured_output=settings.structured_output or structured,
    )
