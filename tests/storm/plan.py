"""Which process is killed when: drawn from a seed, before anything runs.

"Before" sealing, a moment is a share of the recorded input that has been acknowledged, and a
delay; "after" it, a state of a round, and a share of the time that a quiet round spends there.
"""

import random
from dataclasses import dataclass
from typing import Literal

Phase = Literal["before", "after"]

# Process → the states of a round in which it may be killed.
_STATES = {
    "engine": ("training", "evaluating"),
    "collectors": ("curating", "training", "evaluating"),
    "serving": ("training", "evaluating", "awaiting_approval", "releasing"),
    "control": ("curating", "training", "evaluating", "awaiting_approval", "releasing"),
    "supervisor": ("curating", "training", "evaluating", "awaiting_approval"),
    "curate": ("curating",),
    "train": ("training",),
    "evaluate": ("evaluating",),
}
_BEFORE = ("engine", "serving", "serving", "collectors", "collectors", "supervisor", "control")
_AFTER = (
    *("curate", "train", "evaluate", "control") * 2,
    *("engine", "serving", "collectors", "supervisor"),
)
_MAX_DELAY_S = 0.3


@dataclass(frozen=True, slots=True)
class Kill:
    """One `kill -9`."""

    phase: Phase
    process: str
    state: str
    """Of the round; empty where agents are at work and nothing is sealed yet."""
    share: float
    """Before: of the input's pieces of work that are done. After: of the state's time."""
    delay_s: float
    """Before: on top of it."""


def draw(seed: int, num_kills: int) -> list[Kill]:
    """The kills in the order that they happen, each process at least twice from 19 kills on."""
    source = random.Random(seed)
    wanted = [("before", name) for name in _BEFORE] + [("after", name) for name in _AFTER]
    source.shuffle(wanted)
    while len(wanted) < num_kills:
        wanted.append(("after", source.choice(sorted(_STATES))))
    kills = [_kill(phase, name, source) for phase, name in wanted[:num_kills]]
    # A release moves the alias, and the kill switch moves it back: last, so that it shows.
    order = {"before": 0.0, "after": 1.0}
    return sorted(
        kills,
        key=lambda k: (
            order[k.phase],
            k.state == "releasing",
            k.share if k.phase == "before" else 0.0,
        ),
    )


def _kill(phase: str, process: str, source: random.Random) -> Kill:
    share = source.uniform(0.05, 0.85)
    if phase == "before":
        return Kill("before", process, "", share, source.uniform(0.0, _MAX_DELAY_S))
    return Kill("after", process, source.choice(_STATES[process]), share, 0.0)
