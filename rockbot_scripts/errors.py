"""Every failure of the script service that is not a failure of the script itself.

What a guest does wrong is a `ScriptResult`, never an exception. These errors are for whoever operates the service.
"""

from __future__ import annotations


class ScriptServiceError(Exception):
    """Base of the errors raised by `rockbot_scripts`."""


class SandboxUnavailable(ScriptServiceError):
    """No sandbox worker can be started; the message says why and what to do."""


class MissingExtra(SandboxUnavailable):
    """A package of the `wasm` extra is not installed."""

    extra = "wasm"

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the sandbox needs the package {package!r}, which is not installed; "
            "install it with: pip install 'rockbot[wasm]'"
        )


class SandboxBuildFailed(SandboxUnavailable):
    """The sandbox files could not be built into the cache directory."""


class UnsafeCache(SandboxUnavailable):
    """The cache directory may be written by somebody else, so native code from it must not be loaded."""


class LockIncomplete(SandboxUnavailable):
    """`strict` is set and this kernel lacks a part of the worker lock."""


class FrameError(ScriptServiceError):
    """A worker and its supervisor disagree about the bytes between them."""
