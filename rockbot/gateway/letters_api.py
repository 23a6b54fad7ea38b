"""What travels between the gateway and its clients about dead letters, besides the desk's own models."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from rockbot.gateway.api import ErrorLine
from rockbot.letters.models import Edit, ExportedLetter, LetterFilter, Progress, ReplayOptions

__all__ = [
    "IMPORT_BYTES",
    "PULSE_SECONDS",
    "ActionLine",
    "AliveLine",
    "DiscardRequest",
    "EditRequest",
    "EndLine",
    "FindQuery",
    "ImportRequest",
    "LetterLine",
    "ProgressLine",
    "PurgeRequest",
    "ReplayRequest",
    "RestoreRequest",
    "ScanRequest",
]

#: Seconds without a result after which the host says that it is still at it.
PULSE_SECONDS: Final = 10.0
#: Bytes of letters that a client sends in one request at most, unless it is one letter.
IMPORT_BYTES: Final = 3 << 20


class _Given(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FindQuery(LetterFilter):
    """A filter, and which page of what fits."""

    limit: int = Field(default=50, ge=1, le=1000)
    after: str | None = None
    order: Literal["oldest", "newest"] = "oldest"

    @property
    def which(self) -> LetterFilter:
        """The filter alone."""
        return LetterFilter(**{name: getattr(self, name) for name in LetterFilter.model_fields})


class _Acting(_Given):
    """`actor` names who asks, for the audit."""

    actor: str = Field(default="", max_length=200)


class ScanRequest(_Given):
    """Compare the index of one queue, or of all, with the broker."""

    queue: str | None = None


class ReplayRequest(_Acting):
    """Send letters on."""

    which: LetterFilter
    options: ReplayOptions = ReplayOptions()


class EditRequest(_Acting):
    """Mend one letter and send it on."""

    edit: Edit


class DiscardRequest(_Acting):
    """Put letters away."""

    which: LetterFilter
    reason: str = Field(min_length=1, max_length=1000)
    dry_run: bool = False


class RestoreRequest(_Acting):
    """Put discarded letters back."""

    which: LetterFilter


class PurgeRequest(_Acting):
    """Erase every letter of a queue."""

    queue: str
    expect: int = Field(ge=0)
    reason: str = Field(min_length=1, max_length=1000)


class ImportRequest(_Acting):
    """Put exported letters where they lay, or into `queue`."""

    letters: tuple[ExportedLetter, ...]
    queue: str | None = None


class ProgressLine(BaseModel):
    """How far the action is."""

    kind: Literal["progress"] = "progress"
    progress: Progress


class LetterLine(BaseModel):
    """One exported letter."""

    kind: Literal["letter"] = "letter"
    letter: ExportedLetter


class AliveLine(BaseModel):
    """Nothing new, but the host is at it."""

    kind: Literal["alive"] = "alive"


class EndLine(BaseModel):
    """The action is over; the last line. Without it the stream was cut."""

    kind: Literal["end"] = "end"


ActionLine = Annotated[ProgressLine | LetterLine | AliveLine | EndLine | ErrorLine, Field(discriminator="kind")]
