"""Trust: what the broker says about who sent a message, and what such a sender may send.

The user of a message is validated by the broker; what a message says about itself proves nothing. A role is what a user
stands for; whoever is not named, or is not known, is untrusted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, Literal, final

from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.layers import Layer, LayeredBus, Refusal
from rockbot_messaging.measures import NO_MEASURES, Measures, Names
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.subscriptions import Subscription, WorkSubscription
from rockbot_messaging.topics import TopicPattern
from rockbot_messaging.verdicts import DeadLetter

__all__ = ["INSIDERS", "Protected", "Role", "Roles", "Trust", "trusting_bus"]

Role = Literal["host", "worker", "operator", "publisher", "untrusted"]

#: Roles that may send what belongs to running work. Operators are among them because they send dead letters on.
INSIDERS: Final[frozenset[Role]] = frozenset({"host", "worker", "operator"})

#: Topics whose answer is kept; there are few, unless somebody makes them up.
_CASES_KEPT: Final = 4096


@final
class Roles:
    """The role of a message's sender, by a map from broker users to roles."""

    def __init__(self, users: Mapping[str, Role]) -> None:
        self._users = dict(users)

    def role_of(self, envelope: MessageEnvelope) -> Role:
        """The role of whoever the broker says published it (retries and delays keep the first publisher)."""
        return self.role_of_user(envelope.user_id)

    def role_of_user(self, user: str | None) -> Role:
        """The role of a broker user; ``untrusted`` for one that is not named, and for none."""
        return self._users.get(user, "untrusted") if user is not None else "untrusted"


@final
class Protected:
    """Which messages a rule for some topics covers.

    Args:
        patterns: the topics; without any the rule covers nothing.
        is_inner: whether a type belongs to running work. What a message is handled as is said by its type and not by its
            topic, so a type of that kind counts as protected wherever it does not belong.
        inner: topics on which such types travel; there the patterns alone decide.
    """

    def __init__(
        self, patterns: Iterable[str], *, is_inner: Callable[[str], bool] | None = None, inner: Iterable[str] = ()
    ) -> None:
        self._patterns = tuple(map(TopicPattern, patterns))
        self._is_inner = is_inner
        self._inner = tuple(map(TopicPattern, inner))
        self._wanted: dict[tuple[str, ...], tuple[TopicPattern, ...]] = {}
        self._known: dict[tuple[str, str, tuple[str, ...]], bool] = {}

    def covers(self, envelope: MessageEnvelope, subscription: Subscription) -> bool:
        """Whether the rule is for this message.

        It is for every topic that matches; for whatever lies in a work queue under a topic that its subscription does
        not ask for: somebody put it there past the exchanges, and could say any topic; and for a type of running work under
        a topic of others.
        """
        if not self._patterns:
            return False
        asked = subscription.patterns if isinstance(subscription, WorkSubscription) else ()
        case = (envelope.topic, envelope.type, asked)
        known = self._known.get(case)
        if known is None:
            if len(self._known) >= _CASES_KEPT:
                self._known.clear()
            known = self._known[case] = self._find(*case)
        return known

    def _find(self, topic: str, type_name: str, asked: tuple[str, ...]) -> bool:
        if any(pattern.matches(topic) for pattern in self._patterns):
            return True
        misplaced = self._is_inner is not None and self._is_inner(type_name)
        if misplaced and not any(pattern.matches(topic) for pattern in self._inner):
            return True
        if not asked:
            return False
        wanted = self._wanted.get(asked)
        if wanted is None:
            wanted = self._wanted[asked] = tuple(map(TopicPattern, asked))
        return not any(pattern.matches(topic) for pattern in wanted)


@final
class Trust(Layer):
    """The layer: refuses messages of `topics`, and those that `is_inner` says belong there, from senders whose role is none
    of `allowed`.

    Nobody is told of a refusal, because the address to tell would be the stranger's choice.
    """

    def __init__(
        self,
        roles: Roles,
        topics: Iterable[str],
        *,
        allowed: Collection[Role] = INSIDERS,
        is_inner: Callable[[str], bool] | None = None,
        measures: Measures = NO_MEASURES,
    ) -> None:
        topics = tuple(topics)
        self._roles = roles
        self._protected = Protected(topics, is_inner=is_inner, inner=topics)
        self._allowed = frozenset(allowed)
        self._measures = measures

    async def incoming(self, envelope: MessageEnvelope, subscription: Subscription) -> MessageEnvelope | Refusal:
        if not self._protected.covers(envelope, subscription):
            return envelope
        role = self._roles.role_of(envelope)
        if role in self._allowed:
            return envelope
        self._measures.count(Names.UNTRUSTED, cause=f"role_{role}")
        who = "nobody the broker vouches for" if envelope.user_id is None else f"the broker user {envelope.user_id!r}"
        reason = (
            f"{who} sent this, with the role {role}; topic {envelope.topic!r} takes messages of type"
            f" {envelope.type[:100]!r} from {', '.join(sorted(self._allowed))} only"
        )
        return Refusal(DeadLetter(reason=reason, error_type="Untrusted"))


def trusting_bus(
    bus: MessageBus,
    roles: Roles,
    topics: Iterable[str],
    *,
    clock: Clock | None = None,
    measures: Measures = NO_MEASURES,
) -> LayeredBus:
    """`bus`, with messages of `topics` refused unless an insider sent them."""
    return LayeredBus(bus, (Trust(roles, topics, measures=measures),), clock=clock)
