"""What `doctor` says of large bodies, signatures and trust: whether these settings let messages of ours be taken and read.

Nothing is stored and nothing is sent; no check shows a secret.
"""

from __future__ import annotations

import os
from typing import Final

from rockbot import topics
from rockbot.buses import claim_threshold, is_embedded
from rockbot.operators.models import Check
from rockbot.settings import Settings
from rockbot_messaging.broker_urls import BrokerUrl
from rockbot_messaging.trust import INSIDERS, Roles

__all__ = ["layer_checks"]

_LOCAL: Final = ("sqlite", "memory")


def layer_checks(settings: Settings) -> list[Check]:
    """One check for each of the three; raises nothing for settings that a bus can be made of."""
    return [_artifacts(settings), _signing(settings), _trust(settings)]


def _artifacts(settings: Settings) -> Check:
    name, threshold = "artifacts", claim_threshold(settings)
    folder = settings.artifacts.folder
    if folder is not None:
        if not folder.is_dir():
            detail = f"{folder} does not exist"
            advice = "is its volume mounted? The first large body makes the folder, which others may not see"
            return Check(name=name, status="warn", detail=detail, advice=advice)
        wanted = os.R_OK | os.X_OK | (os.W_OK if threshold else 0)
        if not os.access(folder, wanted):
            advice = "let the user of this process read it, and write to it: large bodies are not sent otherwise"
            return Check(name=name, status="fail", detail=f"{folder} may not be used by this process", advice=advice)
        detail = (
            f"bodies above {threshold} bytes lie in {folder}" if threshold else f"read from {folder}; none is stored"
        )
        advice = "" if is_embedded(settings) else "every process on this broker must see the same folder"
        return Check(name=name, status="ok", detail=detail, advice=advice)
    if not threshold:
        return Check(name=name, status="ok", detail="bodies travel whole")
    if not is_embedded(settings) and settings.state_address.partition("://")[0] in _LOCAL:
        detail = f"bodies above {threshold} bytes lie in a state store that only this machine has"
        advice = "set artifacts.folder to a folder that all share, or artifacts.threshold_bytes = 0"
        return Check(name=name, status="warn", detail=detail, advice=advice)
    return Check(name=name, status="ok", detail=f"bodies above {threshold} bytes lie in the state store")


def _signing(settings: Settings) -> Check:
    name, signing = "signing", settings.signing
    if not signing.keys:
        return Check(name=name, status="ok", detail="off: no keys")
    required = f"required on {', '.join(signing.require)}" if signing.require else "required nowhere"
    if signing.key:
        status = "ok" if signing.require else "warn"
        advice = "" if signing.require else "set signing.require, or nothing is refused"
        return Check(name=name, status=status, detail=f"signs with {signing.key!r}; {required}", advice=advice)
    detail = f"checks and does not sign; {required}"
    if signing.require:
        advice = "set signing.key: what this process sends is refused where a signature is required"
        return Check(name=name, status="fail", detail=detail, advice=advice)
    return Check(name=name, status="ok", detail=detail)


def _trust(settings: Settings) -> Check:
    name, trust = "trust", settings.trust
    if is_embedded(settings):
        return Check(name=name, status="ok", detail="an embedded broker has no users")
    user = BrokerUrl.parse(settings.broker_url.get_secret_value()).user
    role = Roles(trust.users).role_of_user(user)
    detail = f"broker user {user!r} has the role {role}"
    if not trust.enforce:
        advice = "set trust.users and trust.enforce where others publish to this broker"
        return Check(name=name, status="ok", detail=f"not enforced; {detail}", advice=advice)
    if role not in INSIDERS:
        advice = f"give {user!r} a role in trust.users, or connect as another user: what it sends is refused"
        return Check(name=name, status="fail", detail=detail, advice=advice)
    return Check(name=name, status="ok", detail=f"{detail}; enforced on {len(topics.INTERNAL)} kinds of topics")
