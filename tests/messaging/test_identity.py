"""Derived ids: the same for the same, different for the different."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.identity import derive_id, foreign_id

_NAME = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
_SOME = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20)


@given(_NAME, _NAME, _NAME, _NAME)
def test_ids_are_equal_if_parent_and_name_are(parent: str, name: str, parent2: str, name2: str) -> None:
    assert (derive_id(parent, name) == derive_id(parent2, name2)) is ((parent, name) == (parent2, name2))


@given(_NAME, _NAME)
def test_a_derived_id_is_a_uuid_of_version_5(parent: str, name: str) -> None:
    made = derive_id(parent, name)
    assert uuid.UUID(made).version == 5
    assert str(uuid.UUID(made)) == made


def test_derived_ids_never_change_between_releases() -> None:
    # Rows and messages of an older release are still there after an upgrade.
    assert derive_id("parent", "name") == "37332537-274b-5810-ba99-f698cf3be831"


@given(_SOME, _SOME, st.binary(max_size=20), st.binary(max_size=20))
def test_a_message_id_identifies_whatever_the_body(topic: str, message_id: str, body: bytes, other: bytes) -> None:
    def identity(body: bytes, publisher: str) -> str | None:
        return foreign_id(
            publisher=publisher, topic=topic, message_id=message_id, reply_to="r", correlation_id="c", body=body
        )

    assert identity(body, "shop") == identity(other, "shop")
    assert identity(body, "shop") != identity(body, "another shop")


@given(_SOME, _SOME, st.binary(max_size=20), st.binary(max_size=20))
def test_without_a_message_id_the_request_itself_identifies(topic: str, reply: str, body: bytes, other: bytes) -> None:
    def identity(body: bytes, correlation_id: str | None) -> str | None:
        return foreign_id(
            publisher=None, topic=topic, message_id=None, reply_to=reply, correlation_id=correlation_id, body=body
        )

    assert (identity(body, "1") == identity(other, "1")) is (body == other)
    assert len({identity(body, "1"), identity(body, "2"), identity(body, None)}) == 3


@given(_SOME, _SOME, _SOME)
def test_equal_messages_of_two_tenants_have_nothing_in_common(parent: str, tenant: str, other: str) -> None:
    def ids(tenant: str) -> set[str]:
        named, nameless = (
            foreign_id(
                publisher="shop",
                topic="t",
                message_id=message_id,
                reply_to="r",
                correlation_id="c",
                body=b"{}",
                tenant=tenant,
            )
            for message_id in (parent, None)
        )
        envelope = MessageEnvelope(topic="a", body=b"", message_id=parent, type="t", tenant=tenant)
        caused = envelope.caused("answer", topic="b", type="u", body=b"", source="", timestamp_ms=0)
        assert named
        assert nameless
        return {named, nameless, caused.message_id}

    assert len(ids(tenant)) == 3
    assert (ids(tenant) == ids(other)) is (tenant == other)
    assert tenant == other or not ids(tenant) & ids(other)


def test_the_default_tenants_ids_are_those_without_a_tenant() -> None:
    assert derive_id("parent", "name", tenant="default") == derive_id("parent", "name")
    assert derive_id("parent", "name", tenant="acme") == "6b9e0bf7-a667-5c80-acfb-375ead130ea5"


def test_a_message_with_nothing_to_tell_it_by_has_no_identity() -> None:
    for empty in (None, ""):
        assert (
            foreign_id(publisher="shop", topic="t", message_id=empty, reply_to=empty, correlation_id=empty, body=b"{}")
            is None
        )


def test_what_a_message_causes_inherits_its_story_and_not_its_addresses() -> None:
    parent = MessageEnvelope(
        topic="a",
        body=b"",
        message_id="parent",
        type="t",
        tenant="acme",
        correlation_id="c",
        reply_to="somewhere",
        conversation_id="talk",
        root_task_id="root",
        deadline_ms=5,
        attempt=3,
        history=("x",),
        headers={"free": 1},
        traceparent="00-1",
    )
    child = parent.caused("answer", topic="b", type="u", body=b"1", source="me", timestamp_ms=7)
    again = parent.caused("answer", topic="b", type="u", body=b"1", source="me", timestamp_ms=7)
    assert child == again
    assert child.message_id == derive_id("parent", "answer", tenant="acme")
    assert (
        child.message_id != parent.caused("other", topic="b", type="u", body=b"1", source="", timestamp_ms=0).message_id
    )
    assert (child.tenant, child.conversation_id, child.root_task_id) == ("acme", "talk", "root")
    assert (child.correlation_id, child.causation_id, child.deadline_ms) == ("c", "parent", 5)
    assert (child.reply_to, child.attempt, child.history, dict(child.headers)) == (None, 1, (), {})
    assert parent.caused("x", topic="b", type="u", body=b"", source="", timestamp_ms=0, deadline_ms=9).deadline_ms == 9


@given(st.text(), st.text())
def test_ids_are_the_version_5_uuids_of_their_names(parent: str, name: str) -> None:
    namespace = uuid.UUID("6a1c7d2e-6f0b-5c1d-9b55-0d7f3f7f5a11")
    assert derive_id(parent, name) == str(uuid.uuid5(namespace, f"{parent}\x1f{name}"))
