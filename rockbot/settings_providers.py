"""Settings of the servers that models are behind: addresses, keys, and how each differs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

__all__ = ["AnthropicSettings", "CassetteSettings", "OpenAiSettings", "ScriptedSettings"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AnthropicSettings(_Section):
    """Access to Anthropic's API. The key also comes from ``ANTHROPIC_API_KEY``, the address from ``ANTHROPIC_BASE_URL``.

    `structured_output` says how a schema for the reply is told: to the API (``json_schema``), or to the model in words
    (``prompt``), for models that the API does not hold to one.
    """

    api_key: SecretStr | None = None
    base_url: str | None = None
    timeout_seconds: float = Field(default=600, gt=0)
    structured_output: Literal["json_schema", "prompt"] = "json_schema"


class OpenAiSettings(_Section):
    """Access to one server that speaks chat completions; what is None comes from the preset of the provider's name.

    The key also comes from the preset's own variable, like ``OPENAI_API_KEY``. `headers` are sent with every call.
    `output_limit` is the field that bounds a reply. `images` false replaces images by a note, for servers that take none;
    `reasoning` says whether the server wants the reasoning of its earlier replies back. `structured_output` says how a schema for
    the reply is told: to the server (``json_schema``), to the model in words (``prompt``), or to the model while the server
    makes sure that it is JSON (``json_object``).
    """

    base_url: str | None = None
    api_key: SecretStr | None = None
    timeout_seconds: float = Field(default=600, gt=0)
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    output_limit: Literal["max_tokens", "max_completion_tokens"] | None = None
    images: bool = True
    reasoning: bool | None = None
    structured_output: Literal["json_schema", "json_object", "prompt"] | None = None


class CassetteSettings(_Section):
    """A file of recorded model calls. It is played, and no real model is called; with `record` real calls are added to it."""

    file: Path | None = None
    record: bool = False


class ScriptedSettings(_Section):
    """The offline model: `rules` is a TOML or JSON file of rules, `call_log` a file that gets a line per call made."""

    rules: Path | None = None
    call_log: Path | None = None
