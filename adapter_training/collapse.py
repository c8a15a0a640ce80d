"""Signs that a run is collapsing. They warn and are written down; whether the adapter is any good
is for evaluation to say, which asks it questions.
"""

from collections.abc import Sequence
from statistics import median

import msgspec

_WINDOW = 8
_SPIKE = 2.0
_SPIKE_FLOOR = 0.5
_SURE_ENTROPY = 0.05
_WRONG_LOSS = 1.0
_REPEATED_EXCESS = 0.3


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the curve."""

    step: int
    loss: float
    supervised: float
    policy: float
    divergence: float
    entropy: float
    """Mean entropy of the answers' tokens, nats."""
    repeated: float
    """Share of the most often predicted token over the answers' positions."""
    repeated_in_data: float
    """The same share among the tokens that really stand there."""
    gradient_norm: float
    learning_rate: float
    num_tokens: int
    skipped: bool = False
    """The gradient was not finite, so the step changed nothing."""


def warnings_at(curve: Sequence[Point]) -> dict[str, str]:
    """What is wrong at the last point of the curve: sign → one sentence."""
    point, before = curve[-1], curve[:-1][-_WINDOW:]
    signs: dict[str, str] = {}
    if point.skipped:
        signs["diverged"] = f"step {point.step}: the gradient is not finite; the step was left out"
    if len(before) == _WINDOW:
        usual = median(abs(p.loss) for p in before)
        if abs(point.loss) > max(_SPIKE * usual, usual + _SPIKE_FLOOR):
            signs["loss_spike"] = f"step {point.step}: loss {point.loss:.3g}, usually {usual:.3g}"
    if point.entropy < _SURE_ENTROPY and point.supervised > _WRONG_LOSS:
        signs["sure_and_wrong"] = (
            f"step {point.step}: entropy {point.entropy:.3g} at a loss of {point.supervised:.3g}"
        )
    if point.repeated - point.repeated_in_data > _REPEATED_EXCESS:
        signs["one_token"] = (
            f"step {point.step}: one token is {point.repeated:.0%} of what the model would say, "
            f"and at most {point.repeated_in_data:.0%} of what was said"
        )
    return signs
