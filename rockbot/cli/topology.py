"""``topology``: what a configuration needs on the broker, what is there, and how the one becomes the other."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rockbot.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from rockbot.cli.render import Block, Tone
    from rockbot.operators.broker_access import BrokerAccess
    from rockbot_messaging.rabbitmq.applying import Done
    from rockbot_messaging.rabbitmq.planning import Plan, Step

__all__ = ["register"]

RemoveBindings = Annotated[
    bool, typer.Option("--remove-bindings", help="Also remove bindings of our queues that nobody asks for.")
]
Topics = Annotated[
    list[str] | None,
    typer.Option("--publisher-topic", metavar="PATTERN", help="What publishers may send; default: tasks."),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    topology = group(app, "topology", help="Compare the broker with what the settings need, and mend it.")
    command(topology, "plan")(plan)
    command(topology, "apply")(apply)
    command(topology, "prune")(prune)
    command(topology, "export")(export)
    command(topology, "roles")(roles)


async def plan(call: Invocation) -> int:
    """What differs; changes nothing. Exits with 0 when nothing does, with 6 when something does."""
    from rockbot.operators.faults import ExitCode

    async with _access(call) as access:
        found = await access.plan()
        _show(call, access, found)
    return ExitCode.PROBLEMS if found.steps else ExitCode.OK


async def apply(
    call: Invocation,
    remove_bindings: RemoveBindings = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="As `topology plan`.")] = False,
) -> int:
    """Create what is missing, add bindings, set policies. What would cost messages is refused, with the way to do it.

    Exits with 6 when something was refused or failed. Does nothing where nothing differs.
    """
    from rockbot.operators.faults import ExitCode
    from rockbot_messaging.rabbitmq.planning import Mark

    if dry_run:
        return await plan(call)
    async with _access(call) as access:
        found = await access.plan()
        done = [item async for item in access.apply(found, remove_bindings=remove_bindings)]
    refused = found.marked(Mark.REFUSE)
    _told(call, done, empty="nothing to do")
    _ways(call, refused)
    for step in refused:
        call.screen.say(f"refused: {step.kind} {step.name}: {step.reason}", "warn")
    return ExitCode.PROBLEMS if refused or any(item.error for item in done) else ExitCode.OK


async def prune(
    call: Invocation,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Delete queues and exchanges of this namespace that no handler or service needs, if they are empty and unused.

    Needs broker.management_url. What holds messages is listed with how to work them. Exits with 6 when something is left.
    """
    from rockbot.operators.faults import ExitCode
    from rockbot_messaging.rabbitmq.applying import LEFT_ALONE
    from rockbot_messaging.rabbitmq.topology import Names
    from rockbot_messaging.rabbitmq.ways import emptied

    async with _access(call) as access:
        if await access.management() is None:
            from rockbot.errors import ConfigError

            raise ConfigError(
                "surplus queues can be seen over the management interface only: set broker.management_url"
                " (ROCKBOT_BROKER__MANAGEMENT_URL)"
            )
        idle = [step for step in _unneeded(await access.plan()) if not step.messages and not step.consumers]
        done: list[Done] = []
        if idle and not yes and not _agreed(call, idle):
            call.screen.say("nothing was deleted")
            return ExitCode.FAILURE
        if idle:
            call.screen.say("counting twice before anything goes; this takes some seconds", "dim")
            done = [item async for item in access.prune(idle)]
        # The broker's books are some seconds old: what they did not have before they have now.
        held = [step for step in _unneeded(await access.plan()) if step.messages or step.consumers]
        # So old that what was left alone just now may still be missing from them.
        told = {step.name for step in held}
        names = Names(access.settings.namespace)
        left = [item.step for item in done if item.error.startswith(LEFT_ALONE) and item.step.name not in told]
    _told(call, done, empty="nothing to delete", word="deleted")
    _ways(call, [*held, *(dataclasses.replace(step, way=emptied(names, step.name)) for step in left)])
    for step in held:
        call.screen.say(f"left alone: {step.name}: {step.reason}", "warn")
    return ExitCode.PROBLEMS if held or any(item.error for item in done) else ExitCode.OK


async def export(
    call: Invocation,
    with_users: Annotated[
        bool, typer.Option("--with-users", help="Also users, permissions, topic permissions.")
    ] = False,
    password_hashes: Annotated[
        Path | None,
        typer.Option("--password-hashes", metavar="FILE", help="JSON: user to `rabbitmqctl hash_password`'s output."),
    ] = None,
    server_version: Annotated[
        str | None, typer.Option("--server-version", metavar="X.Y", help="For this release, without asking a broker.")
    ] = None,
    publisher_topic: Topics = None,
) -> None:
    """Print definitions for `rabbitmqctl import_definitions` or the management interface."""
    from rockbot.operators.broker_access import PUBLISHER_TOPICS
    from rockbot_messaging.rabbitmq.definitions import User, definitions

    if password_hashes is not None and not with_users:
        raise typer.BadParameter("--password-hashes belongs to --with-users")
    async with _access(call) as access:
        version = server_version or await access.version()
        hashes = _hashes(password_hashes)
        users = [
            User(name, role, hashes.pop(name, ""))
            for name, role in access.roles(publisher_topics=publisher_topic or PUBLISHER_TOPICS)
            if with_users
        ]
        if hashes:
            known = ", ".join(user.name for user in users)
            raise typer.BadParameter(f"--password-hashes names users that there are not (there are: {known})")
        document = definitions(
            version=version,
            vhost=access.rabbit.vhost,
            topology=access.wanted,
            policies=access.policies(version),
            users=users,
        )
    call.screen.text(json.dumps(document, ensure_ascii=False, indent=None if call.screen.json else 2))
    bare = [user.name for user in users if not user.password_hash]
    if bare:
        call.screen.say(
            f"without a password, until you set one (rabbitmqctl change_password USER): {', '.join(bare)}."
            " Importing this over existing users takes their passwords away",
            "warn",
        )


async def roles(call: Invocation, publisher_topic: Topics = None) -> None:
    """Which broker user each kind of process needs, and its permissions, as `rabbitmqctl` takes them."""
    import shlex

    from rockbot.cli.render import Prose
    from rockbot.operators.broker_access import PUBLISHER_TOPICS

    async with _access(call) as access:
        listed = access.roles(publisher_topics=publisher_topic or PUBLISHER_TOPICS)
        vhost = shlex.quote(access.rabbit.vhost)
    if call.screen.json:
        for user, role in listed:
            fields = {name: getattr(role, name) for name in ("does", "configure", "write", "read", "tags")}
            topics = [{"exchange": t.exchange, "write": t.write, "read": t.read} for t in role.topics]
            call.screen.text(json.dumps({"user": user, "role": role.name, **fields, "topics": topics}))
        return
    first = "# First, as an administrator, `rockbot topology apply`: RabbitMQ 4.3 wants the exchanges to be there."
    blocks: list[Block] = [Prose(first)]
    for user, role in listed:
        name = shlex.quote(user)
        lines = [
            f"rabbitmqctl add_user {name}    # asks for the password",
            f"rabbitmqctl set_permissions -p {vhost} {name} '{role.configure}' '{role.write}' '{role.read}'",
        ]
        lines += [
            f"rabbitmqctl set_topic_permissions -p {vhost} {name} {topic.exchange} '{topic.write}' '{topic.read}'"
            for topic in role.topics
        ]
        lines += [f"rabbitmqctl set_user_tags {name} {' '.join(role.tags)}"] if role.tags else []
        blocks.append(Prose("\n".join(lines), f"{role.name}: {role.does}"))
    call.screen.show((), blocks)


def _access(call: Invocation) -> BrokerAccess:
    from rockbot.operators.broker_access import BrokerAccess

    access = BrokerAccess(call.settings())
    for missing in access.work.missing:
        call.screen.say(f"not installed here, so its queues are known as far as others address them: {missing}", "warn")
    return access


_TONES: dict[str, Tone] = {"+": "good", "~": "warn", "!": "bad", "-": "dim"}


def _show(call: Invocation, access: BrokerAccess, found: Plan) -> None:
    """The plan as a table, or as one JSON object."""
    from rockbot.cli.render import Grid

    if call.screen.json:
        document = {
            "broker": access.rabbit.address,
            "vhost": access.rabbit.vhost,
            "namespace": access.rabbit.namespace,
            "version": found.version,
            "differences": [_as_json(step) for step in found.steps],
            "not_seen": list(found.blind),
        }
        call.screen.text(json.dumps(document, ensure_ascii=False))
        return
    rows = [(step.mark.value, step.kind, step.name, step.reason) for step in found.steps]
    empty = "no difference" if not found.blind else "no difference in what could be seen"
    tones = [_TONES[step.mark.value] for step in found.steps]
    call.screen.show((), [Grid(("", "WHAT", "NAME", "REASON"), rows, empty=empty, tones=tones)])
    _ways(call, found.steps)
    for unseen in found.blind:
        call.screen.say(f"not seen: {unseen}", "dim")
    if found.blind and access.settings.broker.management_url is None:
        call.screen.say("broker.management_url (RabbitMQ's HTTP API) shows all of it", "dim")


def _as_json(step: Step) -> dict[str, object]:
    return {
        "mark": step.mark.value,
        "kind": step.kind,
        "name": step.name,
        "reason": step.reason,
        "messages": step.messages,
        "consumers": step.consumers,
        **({"way": list(step.way)} if step.way else {}),
    }


def _ways(call: Invocation, steps: list[Step] | tuple[Step, ...]) -> None:
    """What a person does about what the tool leaves alone."""
    from rockbot.cli.render import Prose

    blocks = [Prose("\n".join(step.way), f"{step.kind} {step.name}") for step in steps if step.way]
    if blocks and not call.screen.json:
        call.screen.show((), blocks)


def _unneeded(found: Plan) -> list[Step]:
    """Queues and exchanges that no handler or service needs."""
    from rockbot_messaging.rabbitmq.planning import Mark

    return [step for step in found.marked(Mark.SURPLUS) if step.kind != "binding"]


def _told(call: Invocation, done: list[Done], *, empty: str, word: str = "") -> None:
    """What was done, one line each."""
    from rockbot.cli.render import Grid

    if call.screen.json:
        document = [_as_json(item.step) | {"done": not item.error, "error": item.error} for item in done]
        call.screen.text(json.dumps(document, ensure_ascii=False))
        return
    rows = [
        (item.step.mark.value, item.step.kind, item.step.name, item.error or word or f"done ({item.step.reason})")
        for item in done
    ]
    tones: list[Tone] = ["bad" if item.error else "good" for item in done]
    call.screen.show((), [Grid(("", "WHAT", "NAME", "RESULT"), rows, empty=empty, tones=tones)])


def _agreed(call: Invocation, steps: list[Step]) -> bool:
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is nobody to ask: add --yes to delete what is empty and unused")
    for step in steps:
        call.screen.say(f"{step.kind} {step.name}: {step.reason}")
    return typer.confirm(f"Delete these {len(steps)} for good?", err=True)


def _hashes(path: Path | None) -> dict[str, str]:
    """User to password hash; what is wrong with the file is told without repeating its content."""
    from rockbot_messaging.rabbitmq.definitions import check_hash

    if path is None:
        return {}
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        kind = exc.strerror if isinstance(exc, OSError) else "it is no JSON"
        raise typer.BadParameter(f"--password-hashes {path}: {kind}") from None
    if not isinstance(given, dict):
        raise typer.BadParameter(f"--password-hashes {path}: it must be an object of user names and hashes")
    hashes: dict[str, str] = {}
    for user, text in given.items():
        try:
            hashes[user] = check_hash(str(text))
        except ValueError as exc:
            raise typer.BadParameter(f"--password-hashes {path}: user {user!r}: {exc}") from None
    return hashes
