"""What a replay rules on each letter: sent on, left alone because nobody would take its answer, or its task begun anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from rockbot.letters.models import ReplayOptions, TurnInfo
from rockbot.letters.rows import is_step
from rockbot.letters.turns import Turns
from rockbot.letters.working import Ruling
from rockbot_messaging.clock import Clock
from rockbot_messaging.errors import BodyTooLarge, InvalidTopic, Unroutable
from rockbot_messaging.identity import derive_id
from rockbot_messaging.letters import Discard, Fate, Keep, Letter, SendOn
from rockbot_messaging.settlement import sent_on

__all__ = ["Replay", "ended_text"]

_KEEP: Final = Keep()
_NO_NEW_ID: Final = "it is a step of a turn, which waits for the answer under this very id: replay it without new_id"


def ended_text(turn: TurnInfo) -> str:
    """Why sending on a step of this turn would be in vain."""
    return (
        f"its turn (task {turn.task_id}) has ended: {turn.state}; nobody waits for this step any more. "
        "Replay with restart_turn to begin the task anew"
    )


@final
class Replay:
    """Judges letters for one replay."""

    def __init__(self, turns: Turns, options: ReplayOptions, *, clock: Clock) -> None:
        self._turns = turns
        self._options = options
        self._clock = clock

    async def judge(self, letters: Sequence[Letter]) -> Sequence[Ruling]:
        """A ruling for each letter. A task that is begun anew is published here, before its letter is put away."""
        ended = await self._turns.ended(letters)
        rulings = []
        for letter in letters:
            turn = ended.get((letter.envelope.tenant, letter.id))
            rulings.append(self._send_on(letter) if turn is None else await self._ended(letter, turn))
        return rulings

    def _send_on(self, letter: Letter) -> Ruling:
        envelope = sent_on(letter, now_ms=self._clock.now_ms())
        if self._options.new_id:
            if is_step(letter):
                return Ruling(_KEEP, _NO_NEW_ID)
            # Derived from this death: whoever is killed between storing and removing gives the same message again.
            name = f"replay:{letter.failure.at_ms}"
            envelope = envelope.replace(
                message_id=derive_id(letter.id, name, tenant=envelope.tenant), causation_id=letter.id, signature=None
            )
        return Ruling(SendOn(envelope))

    async def _ended(self, letter: Letter, turn: TurnInfo) -> Ruling:
        if not self._options.restart_turn:
            return Ruling(_KEEP, ended_text(turn), ended_turn=True)
        fate: Fate = Discard("its task is begun anew")
        if self._options.dry_run:
            return Ruling(fate, action="restart-turn")
        try:
            restarted = await self._turns.restart(letter, turn)
        except (Unroutable, BodyTooLarge, InvalidTopic) as exc:
            return Ruling(_KEEP, f"its task {turn.task_id} could not be begun anew: {exc}", ended_turn=True)
        if restarted is None:
            text = f"{ended_text(turn)}; but the journal does not have that task"
            return Ruling(_KEEP, text, ended_turn=True)
        return Ruling(Discard(f"its task {turn.task_id} was begun anew as {restarted}"), action="restart-turn")
