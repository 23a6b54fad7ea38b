"""A second machine: something happens only when two people have turned their keys in time.

It knows nothing of conversations, models and tools, and whatever runs it should not either.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from rockbot.errors import NewerRelease, PermanentFailure
from rockbot.events import Event, TimerDue
from rockbot.machines.machine import Command, Decision, IndexWrite, Input, TimerRequest
from rockbot.state.keys import key
from rockbot_messaging.envelope import ReturnAddress
from rockbot_messaging.identity import derive_id

TOPIC = "keys.step"
#: Milliseconds in which the second key must follow the first.
PATIENCE_MS = 60_000


class Turned(Event):
    type_name: ClassVar[str] = "test.keys.turned"
    who: str


class Open(Event):
    type_name: ClassVar[str] = "test.keys.open"
    round: int


class Opened(Event):
    type_name: ClassVar[str] = "test.keys.opened"


class Door(BaseModel):
    model_config = ConfigDict(frozen=True)

    turned: tuple[str, ...] = ()
    until_ms: int | None = None
    opening: str | None = None
    opened: int = 0
    lapsed: int = 0


class Happened(BaseModel):
    model_config = ConfigDict(frozen=True)

    what: Literal["turned", "lapsed", "opening", "opened", "nothing"]
    who: str = ""
    until_ms: int | None = None
    command: str = ""


class TwoKeys:
    """One door. The first key sets a timer, the second one sends the command, the timer takes the first key back."""

    def __init__(self, door: str) -> None:
        self._door = door

    def initial(self) -> Door:
        return Door()

    def decide(self, state: Door, given: Input) -> Decision[Happened]:
        match given.event:
            case Turned(who=who):
                return self._turned(state, given, who)
            case Opened() if given.envelope.return_address and given.envelope.return_address.token == state.opening:
                return Decision(records=(Happened(what="opened"),), answered=(state.opening or "",))
            case TimerDue(due_ms=due_ms) if state.until_ms == due_ms:
                return Decision(records=(Happened(what="lapsed"),))
            case TimerDue() | Opened():
                return Decision(records=(Happened(what="nothing"),))
        raise PermanentFailure("a door knows no such event")

    def _turned(self, state: Door, given: Input, who: str) -> Decision[Happened]:
        if state.opening or who in state.turned:
            return Decision(records=(Happened(what="nothing"),))
        timer = f"door {self._door}"
        if not state.turned:
            until_ms = given.now_ms + PATIENCE_MS
            due = TimerDue(timer_id=timer, purpose="patience", due_ms=until_ms)
            request = TimerRequest(
                id=timer, due_ms=until_ms, event=due, topic=TOPIC, return_address=self._back("timer")
            )
            return Decision(records=(Happened(what="turned", who=who, until_ms=until_ms),), timers=(request,))
        name = f"open:{state.opened}"
        command = derive_id(given.envelope.message_id, name, tenant=given.envelope.tenant)
        opened = Open(round=state.opened)
        return Decision(
            records=(Happened(what="turned", who=who), Happened(what="opening", command=command)),
            commands=(
                Command(
                    name=name, event=opened, topic="keys.door", return_address=self._back(command), awaits_answer=True
                ),
            ),
            canceled_timers=(timer,),
            index=(IndexWrite(key("default", "door", self._door), who.encode()),),
        )

    def _back(self, token: str) -> ReturnAddress:
        return ReturnAddress(TOPIC, token)

    def evolve(self, state: Door, record: Happened) -> Door:
        match record.what:
            case "turned":
                turned = (*state.turned, record.who)
                return state.model_copy(update={"turned": turned, "until_ms": record.until_ms})
            case "lapsed":
                return Door(opened=state.opened, lapsed=state.lapsed + 1)
            case "opening":
                return state.model_copy(update={"opening": record.command})
            case "opened":
                return Door(opened=state.opened + 1, lapsed=state.lapsed)
            case "nothing":
                return state

    def dump_record(self, record: Happened) -> bytes:
        return record.model_dump_json().encode()

    def load_record(self, data: bytes) -> Happened:
        try:
            return Happened.model_validate_json(data)
        except ValueError as exc:
            raise NewerRelease("a door of a newer release") from exc

    def dump_state(self, state: Door) -> bytes:
        return state.model_dump_json().encode()

    def load_state(self, data: bytes) -> Door:
        return Door.model_validate_json(data)
