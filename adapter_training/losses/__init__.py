"""The losses, one file each.

Each is a plain sum over tokens; a token's weight already holds its share of the step
(`adapter_training/streams.py`), so micro-batches add up to exactly the whole step.
"""

from adapter_training.losses.kl import kl
from adapter_training.losses.outcome_pg import outcome_pg
from adapter_training.losses.supervised import supervised

__all__ = ["kl", "outcome_pg", "supervised"]
