"""The errors a handler may raise to say what should become of its message, and the host's own.

Two verdicts suffice for handlers: try again, or never like this. Every other exception is judged by the table in
`rockbot.failures`.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "MissingExtra",
    "NewerRelease",
    "PermanentFailure",
    "RockBotError",
    "TemporaryFailure",
    "Unhandled",
]


class RockBotError(Exception):
    """Root of the host's errors. The text is for the person who reads it."""


class TemporaryFailure(RockBotError):
    """Try again.

    Args:
        message: what happened, without internals.
        after: seconds to wait at least; None leaves it to the subscription's policy.
        counted: False when waiting must not cost an attempt (throttled, busy elsewhere).
    """

    def __init__(self, message: str, *, after: float | None = None, counted: bool = True) -> None:
        super().__init__(message)
        self.after = after
        self.counted = counted


class PermanentFailure(RockBotError):
    """This message can never succeed as it is: dead-letter it with this text as the reason."""


class NewerRelease(RockBotError):
    """A message or something stored was written by a newer release: a host of that release can go on with it."""


class Unhandled(RockBotError):
    """No link of the chain took the event."""


class ConfigError(RockBotError):
    """A setting is missing, unknown or wrong; the text names the key and where it was read."""


class MissingExtra(ConfigError):
    """A part that was asked for needs a package that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}: pip install 'rockbot[{extra}]'")
        self.extra = extra
