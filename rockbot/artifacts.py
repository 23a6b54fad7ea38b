"""Where artifacts lie by the settings, and what removes those that are too old."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rockbot.plugins import Loop
from rockbot.settings import Settings
from rockbot.state.artifacts import StateArtifacts
from rockbot.state.ports import StateStore
from rockbot_messaging.artifacts import ArtifactStore
from rockbot_messaging.artifacts_folder import FolderArtifacts
from rockbot_messaging.clock import Clock

__all__ = ["artifacts_of", "sweeps_of"]

#: Seconds between two sweeps.
_SWEEP_SECONDS: Final = 3600.0


def artifacts_of(settings: Settings, store: StateStore) -> ArtifactStore:
    """The folder of the settings, else the state store."""
    folder = settings.artifacts.folder
    if folder is not None:
        return FolderArtifacts(folder)
    return StateArtifacts(store, keep_days=settings.artifacts.keep_days)


def sweeps_of(settings: Settings, artifacts: ArtifactStore, clock: Clock) -> Sequence[Loop]:
    """What removes old artifacts from a folder; those in the state store end by themselves."""
    days = settings.artifacts.keep_days
    if not days or not isinstance(artifacts, FolderArtifacts):
        return ()

    async def sweep() -> None:
        await artifacts.sweep(before_ms=clock.now_ms() - round(days * 86_400_000))

    return (Loop("sweep artifacts", sweep, every=_SWEEP_SECONDS),)
