"""Keys of state, built here and nowhere else.

A key is ``<tenant>/<space>/<id>...``; every part is escaped, so that no id from outside can reach into another tenant or
space, and prefixes end at a slash, so that ``a`` never lists ``ab``. Keys are never file paths.
"""

from __future__ import annotations

import re
from typing import Final, NewType
from urllib.parse import quote, unquote

__all__ = [
    "AGENT_SNAPSHOTS",
    "AGENT_USES",
    "Key",
    "Prefix",
    "agent_memory_key",
    "agent_snapshot_key",
    "agent_use_key",
    "approval_key",
    "approvals",
    "artifact_key",
    "call_key",
    "conversation_key",
    "handled_key",
    "key",
    "key_parts",
    "prefix",
    "reply_key",
    "reply_prefix",
    "segment_key",
    "segment_prefix",
    "task_key",
    "task_of_key",
    "task_time_key",
    "task_under_key",
    "tasks_by_time",
    "tasks_of_conversation",
    "tasks_under",
    "tenant_prefix",
    "time_order",
    "timer_prefix",
]

Key = NewType("Key", str)
Prefix = NewType("Prefix", str)

_SAFE = "-_.~:@"
#: What is escaped by nothing: nearly every part of nearly every key.
_PLAIN = re.compile(r"[A-Za-z0-9_.~:@-]*", re.ASCII).fullmatch


def key(tenant: str, space: str, *parts: str) -> Key:
    """The key of `parts` in `space` of `tenant`.

    Raises:
        ValueError: a part is empty.
    """
    texts = (tenant, space, *parts)
    if not parts or not all(texts):
        raise ValueError(f"a state key needs tenant, space and id, none of them empty: {texts!r}")
    return Key("/".join(map(_escaped, texts)))


def prefix(tenant: str, space: str, *parts: str) -> Prefix:
    """What all keys under `parts` in `space` of `tenant` begin with."""
    texts = (tenant, space, *parts)
    if not all(texts):
        raise ValueError(f"a state prefix has no empty parts: {texts!r}")
    return Prefix("/".join(map(_escaped, texts)) + "/")


def tenant_prefix(tenant: str) -> Prefix:
    """What the keys of everything that belongs to a tenant begin with.

    Raises:
        ValueError: it is empty.
    """
    if not tenant:
        raise ValueError("a tenant has a name")
    return Prefix(_escaped(tenant) + "/")


def _escaped(text: str) -> str:
    return text if _PLAIN(text) else quote(text, safe=_SAFE)


def key_parts(of: Key) -> tuple[str, ...]:
    """The unescaped parts of a key: tenant, space, ids."""
    return tuple(unquote(part) for part in of.split("/"))


def conversation_key(tenant: str, conversation_id: str) -> Key:
    """The stream of a conversation."""
    return key(tenant, "conversation", conversation_id)


def segment_key(tenant: str, conversation_id: str, number: int) -> Key:
    """A sealed piece of a conversation's transcript; keys order as numbers do."""
    return key(tenant, "segment", conversation_id, f"{number:08d}")


def segment_prefix(tenant: str, conversation_id: str) -> Prefix:
    """What the keys of all segments of a conversation begin with."""
    return prefix(tenant, "segment", conversation_id)


def task_key(tenant: str, task_id: str) -> Key:
    """The index row that says which conversation a task belongs to, and how it ended."""
    return key(tenant, "task", task_id)


#: Epoch milliseconds that keys order by are below this: the year 2286.
_LATEST_MS: Final = 9_999_999_999_999


def time_order(at_ms: int) -> str:
    """An instant as a part of keys that lists the latest first."""
    return f"{min(max(0, _LATEST_MS - at_ms), _LATEST_MS):013d}"


def task_time_key(tenant: str, accepted_ms: int, task_id: str) -> Key:
    """A task's index row in the order of time, the latest first."""
    return key(tenant, "task-time", time_order(accepted_ms), task_id)


def tasks_by_time(tenant: str) -> Prefix:
    """What the keys of all of them begin with."""
    return prefix(tenant, "task-time")


def task_of_key(tenant: str, conversation_id: str, accepted_ms: int, task_id: str) -> Key:
    """The row that says that a task belongs to a conversation, the latest first."""
    return key(tenant, "task-of", conversation_id, time_order(accepted_ms), task_id)


def tasks_of_conversation(tenant: str, conversation_id: str) -> Prefix:
    """What the keys of all of them begin with."""
    return prefix(tenant, "task-of", conversation_id)


def task_under_key(tenant: str, root_task_id: str, task_id: str) -> Key:
    """The row that says that a task was delegated on behalf of another one."""
    return key(tenant, "under", root_task_id, task_id)


def tasks_under(tenant: str, root_task_id: str) -> Prefix:
    """What the keys of all tasks delegated on behalf of one begin with."""
    return prefix(tenant, "under", root_task_id)


def approval_key(tenant: str, approval_id: str) -> Key:
    """The row of an open approval or question."""
    return key(tenant, "approval", approval_id)


def approvals(tenant: str) -> Prefix:
    """What the keys of all open approvals and questions begin with."""
    return prefix(tenant, "approval")


def call_key(tenant: str, call_id: str) -> Key:
    """The ledger entry of a call."""
    return key(tenant, "call", call_id)


def reply_key(tenant: str, conversation_id: str, call_id: str) -> Key:
    """The text so far of a reply that a model is writing."""
    return key(tenant, "reply", conversation_id, call_id)


def reply_prefix(tenant: str, conversation_id: str) -> Prefix:
    """All of them in one conversation."""
    return prefix(tenant, "reply", conversation_id)


def artifact_key(tenant: str, digest: str) -> Key:
    """The bytes with this SHA-256."""
    return key(tenant, "artifact", digest)


def timer_prefix(tenant: str, conversation_id: str) -> Prefix:
    """What the ids of all timers of a conversation begin with."""
    return prefix(tenant, "timer", conversation_id)


def handled_key(tenant: str, subscription: str, message_id: str) -> Key:
    """The mark that a subscription handled a message."""
    return key(tenant, "handled", subscription, message_id)


def agent_snapshot_key(digest: str) -> Key:
    """An agent's snapshot. Configuration belongs to the host, not to a tenant."""
    return key("host", "agent-snapshot", digest)


def agent_memory_key(tenant: str, agent: str) -> Key:
    """What an agent remembers for a tenant: text."""
    return key(tenant, "agent-memory", agent)


def agent_use_key(agent: str, digest: str, tenant: str, task_id: str) -> Key:
    """The row that says that an open task uses a snapshot; it goes when the task ends."""
    return key("host", "agent-use", agent, digest, tenant, task_id)


#: What the keys of all snapshots, and of all uses of them, begin with.
AGENT_SNAPSHOTS: Final = prefix("host", "agent-snapshot")
AGENT_USES: Final = prefix("host", "agent-use")
