"""What a handler wants written if, and only if, its message succeeds.

Like messages that are emitted, effects are only collected while a handler runs. They are stored together with the mark
that the message was handled, in one transaction: a message that fails leaves nothing, a copy of it changes nothing.
"""

from __future__ import annotations

from typing import final

from rockbot.errors import PermanentFailure
from rockbot.state.keys import Key, key_parts
from rockbot.state.ports import ANY, Write, _Any

__all__ = ["Effects"]


@final
class Effects:
    """The effects of one message of `tenant`. Of several writes to one key the last one counts."""

    __slots__ = ("_tenant", "_writes")

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self._writes: dict[Key, Write] = {}

    def put(self, key: Key, value: bytes, *, expect: int | _Any = ANY, ttl: float | None = None) -> None:
        """Have `value` written under `key` (see `Context.key`), for `ttl` seconds if given.

        With `expect` only if the version is still that one (0: it must not exist); when somebody else wrote meanwhile,
        nothing of this message is stored and it is handled anew.

        Raises:
            PermanentFailure: the key belongs to another tenant than the message.
        """
        self._collect(Write(key=key, value=value, expect=expect, ttl=ttl))

    def delete(self, key: Key, *, expect: int | _Any = ANY) -> None:
        """Have the value of `key` removed. `expect` and errors as for `put`."""
        self._collect(Write(key=key, value=None, expect=expect))

    @property
    def writes(self) -> tuple[Write, ...]:
        """What was collected."""
        return tuple(self._writes.values())

    def _collect(self, write: Write) -> None:
        if key_parts(write.key)[0] != self._tenant:
            raise PermanentFailure(
                f"an effect on {write.key!r} was refused: the message belongs to the tenant {self._tenant!r}"
            )
        former = self._writes.get(write.key)
        if former is not None and write.expect is ANY:
            write = Write(key=write.key, value=write.value, expect=former.expect, ttl=write.ttl)
        self._writes[write.key] = write
