"""What the OpenAI SDK raises against any compatible server, translated once, as for the other providers.

The texts carry status, the server's own words and its request id. The original exception is not chained, because it holds
the request with its headers. Two answers that come as errors are none: a conversation that no longer fits the model's
window, and a refusal by the provider's filter; see `ending`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, final

import httpx2
import openai

from rockbot.events import StopReason
from rockbot.llm import LlmError, LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome
from rockbot_handlers.llm.waiting import THROTTLE_SECONDS, retry_after

__all__ = ["SDK_ERRORS", "Translator", "ending"]

#: Everything the SDK raises of its own accord or lets through; what is not among them is a defect and passes as it is.
SDK_ERRORS: Final = (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, json.JSONDecodeError)

#: Longest part of the server's own words that is repeated.
_MAX_TEXT: Final = 500

#: What came back was read and is not what was asked for.
_NO_COMPLETION: Final = "what came back is no chat completion; is the base URL right?"

#: The request was not even sent.
_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_BAD_ADDRESS: Final = (httpx2.UnsupportedProtocol, httpx2.InvalidURL)

_TOO_LONG: Final = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|exceeds the available context size"
)
_FILTERED: Final = frozenset({"content_filter", "content_policy_violation"})
#: Names of errors that come without a status of their own, inside a stream or under status 200.
_STATUS_OF: Final = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "invalid_request_error": 400,
}


def ending(exc: Exception) -> StopReason | None:
    """How the reply ended, if this error says that of a reply: the window is full, or a filter refused."""
    if not isinstance(exc, openai.APIError) or getattr(exc, "status_code", 400) not in (200, 400, 413, 422):
        return None
    kinds = {exc.code, exc.type}
    if kinds & _FILTERED:
        return "refusal"
    if _TOO_LONG.search(f"{exc.code} {exc.type} {_words(exc.body)}"):
        return "context_window"
    return None


@final
class Translator:
    """Makes one of the four errors out of an exception of the SDK; `secrets` are blotted out of the texts."""

    def __init__(self, provider: str, secrets: Iterable[str]) -> None:
        self._provider = provider
        # The longer first: one may be part of another.
        self._secrets = sorted((secret for secret in secrets if secret), key=len, reverse=True)

    def translate(self, exc: Exception) -> LlmError:
        """The error that the port knows."""
        cause = (exc.__cause__ or exc) if isinstance(exc, openai.APIConnectionError) else exc
        match exc:
            case TimeoutError():
                return LlmUnknownOutcome(self._say("no answer in time"))
            case openai.APIStatusError():
                return self._of_status(exc)
            case openai.APIConnectionError() | httpx2.HTTPError() | httpx2.InvalidURL():
                what = str(cause) or type(cause).__name__
                if isinstance(cause, _BAD_ADDRESS):
                    return LlmPermanent(self._say(f"the base URL cannot be used: {what}"))
                if isinstance(cause, _NOT_SENT):
                    return LlmTransient(self._say(f"could not connect: {what}"))
                if isinstance(exc, openai.APITimeoutError) or isinstance(cause, httpx2.TimeoutException):
                    return LlmUnknownOutcome(self._say("no answer in time"))
                return LlmUnknownOutcome(self._say(f"the connection ended before the answer did: {what}"))
            case openai.APIError():
                return self.of_error(exc.body)
            case openai.OpenAIError():
                return LlmPermanent(self._say(f"{type(exc).__name__}: {exc}"))
            case _:
                return self.no_completion()

    def of_error(self, error: object) -> LlmError:
        """For an error object that came under status 200, in a stream or instead of a completion."""
        fields: Mapping[str, Any] = error if isinstance(error, dict) else {}
        names = [name for name in (fields.get("code"), fields.get("type")) if isinstance(name, str)]
        code = fields.get("code")
        numbered = code if isinstance(code, int) else next((int(name) for name in names if name.isdecimal()), 0)
        status = numbered or next((_STATUS_OF[name] for name in names if name in _STATUS_OF), 0)
        kind = next((f"{name}: " for name in names), "")
        return self._by_status(status, f"{kind}{_words(error)}", names, after=None)

    def unfinished(self) -> LlmError:
        """For a stream that ended, properly, before the reply did."""
        return LlmUnknownOutcome(self._say("the connection ended before the answer did"))

    def no_completion(self) -> LlmError:
        """For an answer that is none."""
        return LlmUnknownOutcome(self._say(_NO_COMPLETION))

    def _of_status(self, exc: openai.APIStatusError) -> LlmError:
        kind = exc.code or exc.type
        request = f" (request {exc.request_id})" if exc.request_id else ""
        words = self._clean(_words(exc.body))
        text = f"{exc.status_code}{f' {kind}' if kind else ''}: {words}{request}"
        names = [name for name in (exc.code, exc.type) if name]
        return self._by_status(exc.status_code, text, names, after=retry_after(exc.response.headers))

    def _by_status(self, status: int, text: str, names: list[str], *, after: float | None) -> LlmError:
        told = self._say(text)
        match status:
            case 429 if "insufficient_quota" in names:
                return LlmPermanent(told)
            case 429 | 529:
                return LlmThrottled(told, after=THROTTLE_SECONDS if after is None else after)
            case 504:
                return LlmUnknownOutcome(told)
            case 408 | 409:
                return LlmTransient(told, after=after)
            case _ if status >= 500:
                return LlmTransient(told, after=after)
            case _ if status >= 400:
                return LlmPermanent(told)
            case _:
                return LlmUnknownOutcome(told)

    def _say(self, text: str) -> str:
        return f"{self._provider}: {self._clean(text, limit=2 * _MAX_TEXT)}"

    def _clean(self, text: str, *, limit: int = _MAX_TEXT) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())[:limit]


def _words(body: object) -> str:
    """The explanation in an error body, whichever server's it is."""
    if isinstance(body, dict):
        for name in ("message", "detail", "error"):
            if told := body.get(name):
                return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False, default=str)
    return body if isinstance(body, str) and body.strip() else "no explanation"
