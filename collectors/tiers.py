"""Tiers of trust in the text of a turn, and which turns may be trained on.

gold: token ids and logprobs as sampled; silver: the full text; bronze: neither.
"""

from collections.abc import Iterable

from appliance.core.records import Json, Tier, Turn
from collectors.importing.messages import is_empty

_ORDER: tuple[Tier, ...] = ("bronze", "silver", "gold")
_MARK = "[redacted:"
_GATEWAY = "gateway"
BROKEN_OFF = "error"
"""The finish reason of an answer whose engine died in the middle of it."""

RAISES: dict[Tier, str] = {
    "gold": "",
    "silver": "let the agent work through the gateway: its tap keeps ids and logprobs",
    "bronze": "the door that it came through must pass on messages and answer",
}
"""What would raise a trajectory of this tier."""


def tier_of(turn: Turn) -> Tier:
    """The tier of one turn."""
    if turn.prompt_ids and turn.answer_ids and turn.logprobs:
        return "gold"
    # An imported record holds all that was said: a greeting has nothing before it.
    whole = bool(turn.messages) or turn.origin != _GATEWAY
    return "silver" if whole and not is_empty(turn.answer) else "bronze"


def lowest(tiers: Iterable[Tier]) -> Tier:
    """The tier of a whole: its weakest turn's."""
    return min(tiers, key=_ORDER.index, default="bronze")


def is_trainable(turn: Turn) -> bool:
    """False where there is no text, where the answer broke off, or where it was redacted.

    An answer that broke off says what a dead engine left, not what the model would say. A redacted
    span in the prompt leaves the answer as the model wrote it; in the answer it would be learnt.
    """
    whole = tier_of(turn) != "bronze" and turn.finish_reason != BROKEN_OFF
    return whole and not (turn.redacted and holds_redaction(turn.answer))


def holds_redaction(value: Json) -> bool:
    """Whether any text in a JSON value was redacted."""
    if isinstance(value, str):
        return _MARK in value
    if isinstance(value, dict):
        return any(holds_redaction(child) for child in value.values())
    return isinstance(value, list | tuple) and any(holds_redaction(child) for child in value)
