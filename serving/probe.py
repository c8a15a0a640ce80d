"""The logprob probe: proof that the engine serves the weights that were trained. No I/O.

On fixed ids the engine's logprobs must match what the trainer wrote down, and must differ from
what the base and the champion say. A wrong, damaged or silently ignored adapter fails.
"""

import math
from collections.abc import Sequence

from appliance.core.errors import AdapterError
from appliance.core.records import Probe

Rows = Sequence[Sequence[float]]

TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
"""Largest mean absolute difference between engine and trainer, in nats per token, by the engine's
dtype. In float32 the two differ by rounding alone, about 1e-5; a wrong adapter by 0.1 and more.
In bfloat16 rounding gives up to 1e-2."""

_TIMES_NEARER = 3.0
"""The engine must be this many times nearer to the trainer than to anything else."""


def require_proof(
    probe: Probe, served: Rows, *, base: Rows, champion: Rows | None, tolerance: float
) -> dict[str, float]:
    """The measured gaps, if they prove that `served` is what was trained.

    Args:
        probe: what the trainer wrote down.
        served: the engine's logprobs with the adapter; `base` without; `champion` with the one
            that is served now, None where that is the base or the same adapter.

    Raises:
        AdapterError: reason ``probe_mismatch``, ``probe_like_base`` or ``probe_like_champion``.
    """
    gaps = {"trainer": gap(served, probe.logprobs), "base_trainer": gap(base, probe.base_logprobs)}
    # A NaN compares false, so it is asked whether the gap is good, never whether it is bad.
    if not gaps["trainer"] <= tolerance or not gaps["base_trainer"] <= tolerance:
        which = "adapter" if gaps["base_trainer"] <= tolerance else "base"
        raise AdapterError(
            "probe_mismatch",
            f"the {which} in the engine is not what was trained: {_told(gaps)}, "
            f"at most {tolerance:g} allowed",
        )
    others = {"base": base} if champion is None else {"base": base, "champion": champion}
    for name, rows in others.items():
        gaps[name] = gap(served, rows)
        if not gaps[name] > _TIMES_NEARER * max(gaps["trainer"], tolerance / _TIMES_NEARER):
            raise AdapterError(
                f"probe_like_{name}",
                f"the engine answers like the {name}: {_told(gaps)}; the adapter has no effect "
                "that a probe could see",
            )
    return gaps


def gap(left: Rows, right: Rows) -> float:
    """Mean absolute difference per token; NaN where the shapes differ or a value is not finite."""
    if [len(row) for row in left] != [len(row) for row in right]:
        return math.nan
    pairs = [
        abs(a - b)
        for row, other in zip(left, right, strict=True)
        for a, b in zip(row, other, strict=True)
    ]
    return math.fsum(pairs) / len(pairs) if pairs and all(map(math.isfinite, pairs)) else math.nan


def _told(gaps: dict[str, float]) -> str:
    return ", ".join(f"gap to {name} {value:.2g}" for name, value in gaps.items())
