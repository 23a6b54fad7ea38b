"""Whether a model call may be made now: circuit, slot and rate of its backend, and whoever is more urgent.

Nothing waits here. A call that may not be made is refused with the time after which it is worth another look, and its message
waits in the broker meanwhile, at no attempt's cost. What several replicas must agree on lies in the state store.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, final

from rockbot import topics
from rockbot.catalogue.circuits import CIRCUIT, backend_key
from rockbot.errors import RockBotError
from rockbot.events import Usage
from rockbot.llm import LlmThrottled, LlmTransient, LlmUnknownOutcome
from rockbot.settings_models import BackendSettings
from rockbot.state.keys import Key
from rockbot.state.ports import StateStore, VersionConflict
from rockbot_handlers.llm.bucket import SharedBucket
from rockbot_handlers.llm.circuit import Circuit, Closed, Probing
from rockbot_handlers.llm.slots import Slot, Slots
from rockbot_messaging.clock import Clock

__all__ = ["Asking", "Backend", "Backends", "NotNow", "Permit"]

logger = logging.getLogger(__name__)

WaitsFor = Literal["breaker", "throttled", "slot", "rate", "lane"]

#: Seconds until a refused call asks again, at first and at most, where nothing says how long it will take.
_FIRST_LOOK: Final = 1.0
_LAST_LOOK: Final = 5.0
#: Seconds between the looks of two lanes: what is more urgent comes back first.
_APART: Final = 1.0
#: Seconds of waiting that lift a call by one lane, as in a process (`rockbot_messaging.subscriptions.Lane`).
_AGEING: Final = 30.0
#: Seconds after its next look that a call is still taken for waiting.
_GRACE: Final = 3.0


@final
class NotNow(RockBotError):
    """The call may not be made before `after` seconds; `waits_for` says why."""

    def __init__(self, message: str, *, after: float, waits_for: WaitsFor) -> None:
        super().__init__(message)
        self.after = after
        self.waits_for = waits_for


@final
@dataclass(frozen=True, slots=True)
class Asking:
    """A call that wants to be made. `since_ms` is when its message was sent, `looks` how often it was handed back."""

    call_id: str
    tenant: str
    lane: topics.Lane
    since_ms: int
    looks: int
    tokens: int

    @property
    def rank(self) -> int:
        """The place of its lane, the most urgent is 0."""
        return topics.LANES.index(self.lane)

    @property
    def place_ms(self) -> float:
        """Where it stands among all that wait: the smallest goes first."""
        return self.since_ms + self.rank * _AGEING * 1000


@final
class Permit:
    """A call may be made. Say how it went, then `release`."""

    def __init__(self, backend: Backend, asking: Asking, slot: Slot | None, circuit: Circuit) -> None:
        self._backend = backend
        self._asking = asking
        self._slot = slot
        self._circuit = circuit
        self.probing = circuit.doubtful
        """Whether others wait for what comes of it."""

    async def succeeded(self, usage: Usage) -> None:
        """It was answered, with so many tokens."""
        self._backend.used(self._asking, usage)
        if self._circuit.failures or self._circuit.doubtful:
            await self._backend.change(Circuit.succeeded)

    async def failed(self, exc: Exception) -> None:
        """It raised this."""
        await self._backend.note_failure(self._asking, exc)

    async def release(self) -> None:
        """Give the slot back."""
        if self._slot is not None:
            await self._slot.release()


@final
@dataclass(slots=True)
class Backend:
    """One provider, as all replicas see it."""

    name: str
    settings: BackendSettings
    store: StateStore
    clock: Clock
    _slots: Slots | None = field(init=False, default=None)
    _requests: SharedBucket | None = field(init=False, default=None)
    _tokens: SharedBucket | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        its = self.settings
        if its.slots is not None:
            self._slots = Slots(self.store, self._key("slots"), its.slots)
        if its.requests_per_minute is not None:
            self._requests = SharedBucket(self.store, self._key("requests"), its.requests_per_minute, clock=self.clock)
        if its.tokens_per_minute is not None:
            self._tokens = SharedBucket(self.store, self._key("tokens"), its.tokens_per_minute, clock=self.clock)

    @property
    def counts_tokens(self) -> bool:
        """Whether a call has to say how many tokens it will take."""
        return self._tokens is not None

    async def admit(self, asking: Asking) -> Permit:
        """Let a call be made.

        Raises:
            NotNow: later. StateUnavailable: the store cannot say.
        """
        await self._let_the_urgent_go_first(asking)
        circuit = await self._pass_circuit(asking)
        slot = await self._slots.take(asking.call_id, asking.tenant) if self._slots is not None else None
        try:
            if self._slots is not None and slot is None:
                raise self._later(asking, "slot", f"all {self.settings.slots} slots of {self.name!r} are taken")
            await self._pass_rates(asking)
        except BaseException as exc:
            if slot is not None:
                await slot.release()
            if circuit.doubtful:
                await self.change(lambda now: now.gave_up(asking.call_id))
            if isinstance(exc, NotNow):
                await self._note_waiting(asking, exc.after)
            raise
        return Permit(self, asking, slot, circuit)

    def used(self, asking: Asking, usage: Usage) -> None:
        """The tokens that a call took, instead of those that were expected."""
        if self._tokens is not None:
            took = usage.input_tokens + usage.output_tokens + usage.cache_write_tokens
            self._tokens.correct(asking.tokens - took)

    async def note_failure(self, asking: Asking, exc: Exception) -> None:
        """What an error says about the backend."""
        now_ms = await self.store.now_ms()
        match exc:
            case LlmThrottled():
                await self.change(lambda circuit: circuit.throttled(str(exc), now_ms, exc.after))
                await self._note_waiting(asking, exc.after)
            case LlmTransient() | LlmUnknownOutcome():
                await self.change(lambda circuit: circuit.failed(str(exc), now_ms, self.settings))
            case _:
                # It did answer, if only that this request is wrong.
                await self.change(lambda circuit: circuit.succeeded() if circuit.doubtful else circuit)
        if self._tokens is not None and not isinstance(exc, LlmUnknownOutcome):
            self._tokens.correct(asking.tokens)

    async def circuit(self) -> Circuit:
        """How it stands."""
        entry = await self.store.get(self._key(CIRCUIT))
        return Circuit() if entry is None else Circuit.model_validate_json(entry.value)

    async def change(self, change: Callable[[Circuit], Circuit]) -> None:
        """Write down how it stands now."""
        while True:
            entry = await self.store.get(self._key(CIRCUIT))
            before = Circuit() if entry is None else Circuit.model_validate_json(entry.value)
            after = change(before)
            if after == before:
                return
            if after.until_ms > before.until_ms:
                extra = {"backend": self.name, "cause": after.cause, "error": after.error, "until_ms": after.until_ms}
                logger.warning("nothing is sent to a backend for a while", extra=extra)
            try:
                version = 0 if entry is None else entry.version
                await self.store.put(self._key(CIRCUIT), after.model_dump_json().encode(), expect=version)
            except VersionConflict:
                continue
            return

    # -- passing ------------------------------------------------------------------------------------------------------

    async def _let_the_urgent_go_first(self, asking: Asking) -> None:
        for lane in topics.LANES[: asking.rank]:
            entry = await self.store.get(self._key("waiting", lane))
            if entry is not None and float(entry.value) < asking.place_ms:
                raise self._later(asking, "lane", f"calls of the lane {lane} go first")

    async def _pass_circuit(self, asking: Asking) -> Circuit:
        while True:
            entry = await self.store.get(self._key(CIRCUIT))
            if entry is None:
                return Circuit()
            circuit = Circuit.model_validate_json(entry.value)
            match circuit.admit(asking.call_id, await self.store.now_ms()):
                case Closed():
                    return circuit
                case Probing(then):
                    try:
                        await self.store.put(self._key(CIRCUIT), then.model_dump_json().encode(), expect=entry.version)
                    except VersionConflict:
                        continue
                    return then
                case shut:
                    refused = self._later(
                        asking, shut.cause, f"{self.name!r} is left alone: {circuit.error}", wait=shut.seconds
                    )
                    await self._note_waiting(asking, refused.after)
                    raise refused

    async def _pass_rates(self, asking: Asking) -> None:
        if self._requests is not None and (wait := await self._requests.take(1)):
            raise self._later(asking, "rate", f"{self.name!r} takes no more requests a minute", wait=wait)
        if self._tokens is not None and (wait := await self._tokens.take(asking.tokens)):
            if self._requests is not None:
                self._requests.correct(1)
            raise self._later(asking, "rate", f"{self.name!r} takes no more tokens a minute", wait=wait)

    def _later(self, asking: Asking, waits_for: WaitsFor, message: str, *, wait: float = 0.0) -> NotNow:
        # Calls that come back together would only meet again: each comes at a moment of its own.
        moment = zlib.crc32(asking.call_id.encode()) % 1000 / 1000
        again = min(_LAST_LOOK, _FIRST_LOOK + asking.looks / 10) * (0.5 + moment / 2)
        return NotNow(message, after=max(wait, again) + asking.rank * _APART, waits_for=waits_for)

    async def _note_waiting(self, asking: Asking, after: float) -> None:
        """So that less urgent calls know that this one waits."""
        if asking.lane != topics.LANES[-1]:
            await self.store.put(self._key("waiting", asking.lane), str(asking.place_ms).encode(), ttl=after + _GRACE)

    def _key(self, *parts: str) -> Key:
        return backend_key(self.name, *parts)


@final
class Backends:
    """Every backend of a host."""

    def __init__(self, settings: Mapping[str, BackendSettings], *, store: StateStore, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._made: dict[str, Backend] = {}

    def __getitem__(self, name: str) -> Backend:
        found = self._made.get(name)
        if found is None:
            its = self._settings.get(name, BackendSettings())
            found = self._made[name] = Backend(name, its, self._store, self._clock)
        return found
