"""Settings of what happens to messages: how they are received, retried, trusted, and what becomes of dead letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from rockbot_messaging.retries import Backoff, Exponential, Fixed, Immediate, NoRetry, RetryPolicy, RetryRule, Steps
from rockbot_messaging.subscriptions import Ordered

__all__ = [
    "ArtifactSettings",
    "BrokerSettings",
    "GuardSettings",
    "LetterSettings",
    "OrderSettings",
    "RateSettings",
    "RetryRuleSettings",
    "RetrySettings",
    "SigningSettings",
    "SubscriptionSettings",
    "TrustSettings",
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Waits(_Section):
    """How long between two attempts; which of the numbers count depends on `backoff`."""

    backoff: Literal["none", "immediate", "fixed", "steps", "exponential"] | None = None
    seconds: float = Field(default=5, ge=0)
    steps: tuple[float, ...] = (1, 5, 30, 120)
    first: float = Field(default=1, ge=0)
    factor: float = Field(default=2, ge=1)
    longest: float = Field(default=600, ge=0)
    jitter: bool = True
    max_attempts: int | None = Field(default=None, ge=1, le=1000)
    max_age: float | None = Field(default=None, gt=0)

    def waits(self) -> Backoff | None:
        """The backoff, None when the section names none."""
        match self.backoff:
            case None:
                return None
            case "none":
                return NoRetry()
            case "immediate":
                return Immediate()
            case "fixed":
                return Fixed(self.seconds)
            case "steps":
                return Steps(self.steps)
            case "exponential":
                return Exponential(self.first, self.factor, self.longest, self.jitter)

    @model_validator(mode="after")
    def _waits_are_sound(self) -> _Waits:
        self.waits()
        return self


class RetryRuleSettings(_Waits):
    """What differs for some errors: `errors` are class names; subclasses are covered."""

    errors: tuple[str, ...] = Field(min_length=1)

    def rule(self) -> RetryRule:
        """As the policy knows it."""
        return RetryRule(errors=self.errors, backoff=self.waits(), max_attempts=self.max_attempts, max_age=self.max_age)


class RetrySettings(_Waits):
    """What a failure leads to. What is not given is as the subscription's handler has it."""

    rules: tuple[RetryRuleSettings, ...] = ()
    max_handbacks: int | None = Field(default=None, ge=0)
    max_handback_age: float | None = Field(default=None, gt=0)

    def over(self, policy: RetryPolicy) -> RetryPolicy:
        """`policy` with what is set here."""
        import dataclasses

        given: dict[str, Any] = {
            "max_attempts": self.max_attempts,
            "max_age": self.max_age,
            "backoff": self.waits(),
            "rules": tuple(rule.rule() for rule in self.rules) + policy.rules,
            "max_handbacks": self.max_handbacks,
            "max_handback_age": self.max_handback_age,
        }
        return dataclasses.replace(policy, **{name: value for name, value in given.items() if value is not None})


class RateSettings(_Section):
    """At most `per_second` deliveries begun by each process, `burst` of them at once."""

    per_second: float = Field(gt=0)
    burst: int = Field(default=1, ge=1)


class OrderSettings(_Section):
    """Messages of one key are handled one after another. See `rockbot_messaging.subscriptions.Ordered`.

    `lease_seconds` after a process died others go on with its keys; every `scan_seconds` each looks for such keys;
    `max_waiting` messages of one key may wait.
    """

    by: str = "conversation"
    on_dead: Literal["block", "skip"] = "block"
    lease_seconds: float = Field(default=15, ge=1, le=600)
    scan_seconds: float = Field(default=5, ge=0.1, le=600)
    max_waiting: int = Field(default=10_000, ge=1)

    def ordered(self) -> Ordered:
        """As the subscription knows it."""
        return Ordered(
            by=self.by,
            on_dead=self.on_dead,
            lease=self.lease_seconds,
            scan=self.scan_seconds,
            most=self.max_waiting,
        )

    @model_validator(mode="after")
    def _is_an_order(self) -> OrderSettings:
        self.ordered()
        return self


class GuardSettings(_Section):
    """When handling fails for every message. `failures` 0 switches the guard off."""

    failures: int = Field(default=10, ge=0)
    probe_seconds: float = Field(default=1, gt=0)
    longest_seconds: float = Field(default=60, gt=0)

    @model_validator(mode="after")
    def _longest_is_longest(self) -> GuardSettings:
        if self.probe_seconds > self.longest_seconds:
            raise ValueError("longest_seconds must not be below probe_seconds")
        return self


class SubscriptionSettings(_Section):
    """One subscription, by its name (`rockbot pipeline` lists them). What is not given stays as its handler has it."""

    prefetch: int | None = Field(default=None, ge=1, le=10_000)
    concurrency: int | None = Field(default=None, ge=1, le=10_000)
    rate: RateSettings | None = None
    retry: RetrySettings = RetrySettings()
    order: OrderSettings | None = None
    guard: GuardSettings | None = None
    remember_seconds: float | None = Field(default=None, ge=0)


class ArtifactSettings(_Section):
    """Large bodies: those above `threshold_bytes` are stored aside and travel by reference; 0 switches it off.

    They lie in `folder`, else in the state store, which every process that shares a broker must share too. So without a
    threshold it is 64 KiB where they certainly do (a folder is named, or the state is a server's) and off where they may
    not (an embedded broker, a file on this machine). References of others are followed whatever it is. `keep_days` removes
    what was last stored longer ago than that, long results of tools included; 0 keeps everything for ever.
    """

    threshold_bytes: int | None = Field(default=None, ge=0)
    folder: Path | None = None
    keep_days: float = Field(default=0, ge=0)


class SigningSettings(_Section):
    """Signatures over the fields of a message that never change.

    `keys` maps key ids to secrets of at least 32 characters; all of them are accepted, `key` names the one that signs.
    `require` are topic patterns on which an unsigned or wrongly signed message is a dead letter.
    """

    key: str = ""
    keys: dict[str, SecretStr] = Field(default_factory=dict)
    require: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _key_is_known(self) -> SigningSettings:
        if self.key and self.key not in self.keys:
            raise ValueError(f"signing.key names {self.key!r}, which signing.keys does not have")
        if self.require and not self.keys:
            raise ValueError("signing.require needs signing.keys to check against")
        for name, secret in self.keys.items():
            if len(secret.get_secret_value()) < 32:
                raise ValueError(f"the secret of signing key {name!r} has less than 32 characters")
        return self


class TrustSettings(_Section):
    """Who is trusted: broker users (validated by the broker) and the role each stands for.

    Roles: ``host``, ``worker``, ``operator`` and ``publisher``; a user that is not named, or none, is untrusted. `enforce`
    dead-letters what only hosts and workers may send (answers to open calls, internal commands) when it comes from others.
    """

    users: dict[str, Literal["host", "worker", "operator", "publisher"]] = Field(default_factory=dict)
    enforce: bool = False


class BrokerSettings(_Section):
    """More about the broker. `management_url` is RabbitMQ's HTTP API (``http://user:password@host:15672``).

    `cafile`, `certfile` and `keyfile` are PEM files for ``amqps``. `max_header_bytes` bounds all headers of a message.
    `max_queue_messages` and `max_queue_bytes` bound each work and delay queue, `max_unrouted_messages` the unrouted queue:
    beyond them the broker refuses publishes. They are policies, which `rockbot topology apply` sets.
    """

    management_url: SecretStr | None = None
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    max_header_bytes: int = Field(default=64 * 1024, ge=4096, le=100 * 1024)
    max_queue_messages: int = Field(default=1_000_000, ge=1)
    max_queue_bytes: int = Field(default=2 << 30, ge=1 << 20)
    max_unrouted_messages: int = Field(default=100_000, ge=1)


class LetterSettings(_Section):
    """Dead letters. `scan_seconds` is how often the index is compared with the broker (0: never).

    One process at a time works the letters of a queue; `wait_seconds` is how long another one waits for it.
    `keep_days` (0: for ever) erases older letters, `keep_days_by_queue` says otherwise for some queues.
    """

    scan_seconds: float = Field(default=300, ge=0)
    wait_seconds: float = Field(default=30, gt=0, le=3600)
    keep_days: float = Field(default=0, ge=0)
    keep_days_by_queue: dict[str, float] = Field(default_factory=dict)

    @field_validator("keep_days_by_queue")
    @classmethod
    def _not_negative(cls, value: dict[str, float]) -> dict[str, float]:
        if any(days < 0 for days in value.values()):
            raise ValueError("days must be 0 (for ever) or more")
        return value

    @model_validator(mode="after")
    def _somebody_erases(self) -> LetterSettings:
        if not self.scan_seconds and (self.keep_days or any(self.keep_days_by_queue.values())):
            raise ValueError("keep_days needs scan_seconds above 0: whoever scans erases what is too old")
        return self
