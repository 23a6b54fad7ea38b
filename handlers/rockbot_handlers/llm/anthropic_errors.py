"""What the Anthropic SDK raises, translated once: may the call be tried again, when, and may it have been made.

The texts carry status, the API's own words and its request id. The original exception is not chained, because it holds
the request with its headers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

import anthropic
import httpx2

from rockbot.llm import LlmError, LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome
from rockbot_handlers.llm.waiting import THROTTLE_SECONDS, retry_after

__all__ = ["NO_MESSAGE", "SDK_ERRORS", "is_window_full", "translate"]

_Clean = Callable[[str], str]

#: Everything the SDK raises of its own accord or lets through; what is not among them is a defect and passes as it is.
SDK_ERRORS: Final = (anthropic.AnthropicError, httpx2.HTTPError, httpx2.InvalidURL, json.JSONDecodeError)

#: Longest part of the API's own words that is repeated.
_MAX_TEXT: Final = 500

#: What came back was read and is not what was asked for.
NO_MESSAGE: Final = "what came back is no message of the Messages API; is the base URL right?"

_STATUS_OF: Final = {"overloaded_error": 529, "rate_limit_error": 429, "invalid_request_error": 400}

#: How the API says that a conversation is too long; it has no type or code of its own for it.
_WINDOW_FULL: Final = re.compile(
    r"prompt is too long|input is too long|exceeds? (?:the |your )?context (?:limit|window)", re.IGNORECASE
)

#: The request was not even sent.
_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_BAD_ADDRESS: Final = (httpx2.UnsupportedProtocol, httpx2.InvalidURL)


def translate(exc: Exception, *, secret: str) -> LlmError:
    """One of the four errors for an exception of the SDK; `secret` is blotted out of the text."""
    return _translated(exc, lambda text: " ".join(text.replace(secret, "***").split())[:_MAX_TEXT])


def is_window_full(exc: Exception) -> bool:
    """Whether the error says of a request that it does not fit the model's context window."""
    return (
        isinstance(exc, anthropic.APIStatusError)
        and exc.status_code in (200, 400, 413)
        and exc.type in ("invalid_request_error", "request_too_large")
        and _WINDOW_FULL.search(exc.api_message or "") is not None
    )


def _translated(exc: Exception, clean: _Clean) -> LlmError:
    cause = exc.__cause__ if isinstance(exc, anthropic.APIConnectionError) else exc
    match exc:
        case anthropic.APIStatusError():
            return _of_status(exc, clean)
        case anthropic.APIConnectionError() | httpx2.HTTPError() | httpx2.InvalidURL():
            what = clean(str(cause) or type(cause).__name__)
            if isinstance(cause, _BAD_ADDRESS):
                return LlmPermanent(f"anthropic: the base URL cannot be used: {what}")
            if isinstance(cause, _NOT_SENT):
                return LlmTransient(f"anthropic: could not connect: {what}")
            if isinstance(exc, anthropic.APITimeoutError) or isinstance(cause, httpx2.TimeoutException):
                return LlmUnknownOutcome("anthropic: no answer in time")
            return LlmUnknownOutcome(f"anthropic: the connection ended before the answer did: {what}")
        case anthropic.APIError():
            # An error event in a stream that had begun, or an answer that is no message.
            return LlmUnknownOutcome(f"anthropic: {clean(exc.message)}")
        case anthropic.AnthropicError():
            return LlmPermanent(f"anthropic: {type(exc).__name__}: {clean(str(exc))}")
        case _:
            return LlmUnknownOutcome(f"anthropic: {NO_MESSAGE}")


def _of_status(exc: anthropic.APIStatusError, clean: _Clean) -> LlmError:
    kind = f" {exc.type}" if exc.type else ""
    request = f" (request {exc.request_id})" if exc.request_id else ""
    text = f"anthropic: {exc.status_code}{kind}: {clean(exc.api_message or 'no explanation')}{request}"
    after = retry_after(exc.response.headers)
    # An error inside a stream comes under status 200; its type says what a status would have said.
    match _STATUS_OF.get(exc.type or "", 0) if exc.status_code < 400 else exc.status_code:
        case 0:
            return LlmUnknownOutcome(text)
        case 429 if exc.type == "billing_error" or (exc.error_code or "").endswith("spend_limit_reached"):
            return LlmPermanent(text)
        case 429 | 529:
            return LlmThrottled(text, after=THROTTLE_SECONDS if after is None else after)
        case 504:
            return LlmUnknownOutcome(text)
        case 408 | 409:
            return LlmTransient(text, after=after)
        case status if status >= 500:
            return LlmTransient(text, after=after)
        case _:
            return LlmPermanent(text)
