"""How big a demo is, per base. The recipe and gate files are the appliance's own, by name."""

from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


@dataclass(frozen=True, slots=True)
class Plan:
    """One demo's numbers."""

    base: str
    company: Path
    recipe: Path
    gates: Path
    num_rounds: int
    """Honest rounds; the poisoned one comes on top."""
    rounds_as_a_rule: int
    """After so many the target is mostly good enough; for the time left."""
    attempts_per_round: int
    correction_share: float
    """Failed trajectories that a person corrects."""
    temperature: float
    concurrency: int
    max_answers: int
    """Answers of an agent at one task; a small base rarely mends what it did not mend at once."""
    num_target: int
    num_protected: int
    num_held_out: int
    good_enough: float
    """Held-out rate at which no further round is started."""
    poison_attempts: int
    typical_s: dict[str, float]
    """Seconds that each stage takes on two cores, for the time left; see Story.tell."""


PLANS = {
    "tiny": Plan(
        base="tiny",
        company=_HERE / "companies" / "words.toml",
        recipe=_ROOT / "adapter_training" / "recipes" / "tiny.toml",
        gates=_ROOT / "policies" / "gates" / "default.toml",
        num_rounds=3,
        rounds_as_a_rule=2,
        attempts_per_round=800,
        correction_share=0.05,
        temperature=1.0,
        concurrency=48,
        max_answers=3,
        num_target=200,
        num_protected=1000,
        num_held_out=300,
        good_enough=0.97,
        poison_attempts=400,
        typical_s={"law": 12.0, "round": 70.0, "poison": 45.0, "undo": 2.0, "account": 10.0},
    ),
    "smollm2": Plan(
        base="smollm2",
        company=_HERE / "companies" / "tools.toml",
        recipe=_ROOT / "adapter_training" / "recipes" / "smollm2.toml",
        gates=_ROOT / "policies" / "gates" / "smollm2.toml",
        num_rounds=2,
        rounds_as_a_rule=1,
        attempts_per_round=300,
        correction_share=0.1,
        temperature=0.7,
        concurrency=32,
        max_answers=2,
        num_target=60,
        num_protected=210,
        num_held_out=60,
        good_enough=0.65,
        poison_attempts=20,
        typical_s={"law": 50.0, "round": 320.0, "poison": 90.0, "undo": 4.0, "account": 40.0},
    ),
}
