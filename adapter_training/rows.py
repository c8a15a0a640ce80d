"""From a sealed dataset to training rows: arrays fetched, verified, and given their weights."""

from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapter_training.advantages import advantages
from appliance.core.errors import RecordError, RefusedError
from appliance.core.objects import ObjectStore
from appliance.core.recipe import Recipe
from appliance.core.records import ArrayRef, Dataset, Example

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float32]
_WIRE = {"int32": "<i4", "float32": "<f4", "uint8": "|u1"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One token sequence and what to learn from it."""

    ids: Ints
    targets: Ints
    """Positions of the tokens that are trained on; each is at least 1."""
    weight: float
    """Of each target's cross entropy; 0 where only the policy gradient counts."""
    advantage: float = 0.0
    behaviour: Floats | None = None
    """Logprob of each target when it was sampled; set where `advantage` counts."""


def load_rows(
    store: ObjectStore, dataset: Dataset, recipe: Recipe, *, vocabulary: int
) -> tuple[list[Row], dict[str, int]]:
    """The dataset's rows under the recipe's loss, and how many were not used, by reason.

    Raises:
        RecordError: an array does not fit its example, or holds a token the base does not have.
        RefusedError: policy gradient on an answer without behaviour logprobs; nothing to train on.
        IntegrityError: an array's bytes are not what its digest says.
    """
    rows: list[Row] = []
    unused: dict[str, int] = {}
    attempts = [e for e in dataset.examples if e.kind != "correction"]
    gains = iter(advantages(attempts, negative_weight=recipe.negative_weight))
    for example in dataset.examples:
        gain = 0.0 if example.kind == "correction" else next(gains)
        reason = _reason_not_to_use(example, recipe, gain)
        if reason:
            unused[reason] = unused.get(reason, 0) + 1
        else:
            rows.append(_row(store, example, recipe, gain, vocabulary))
    if not rows:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(unused.items()))
        raise RefusedError(
            f"the dataset holds nothing that the loss {recipe.loss!r} can learn from: "
            f"{why or 'no examples'}",
            next_step="collect outcomes or corrections for more trajectories, then curate again",
        )
    return rows, unused


def _reason_not_to_use(example: Example, recipe: Recipe, gain: float) -> str:
    if example.kind == "correction":
        return "" if recipe.corrections else "corrections switched off"
    if recipe.loss == "supervised":
        return "failures under a supervised loss" if example.kind == "failure" else ""
    _behaviour(example)
    return "" if gain else "no better and no worse than their baseline"


def _behaviour(example: Example) -> ArrayRef:
    if example.logprobs is None:
        raise RefusedError(
            f"trajectory {example.trajectory_id} node {example.node} has no behaviour logprobs; "
            "policy gradient would take it for the model's own",
            next_step='use loss = "supervised", or curate gold trajectories only',
        )
    return example.logprobs


def _row(
    store: ObjectStore,
    example: Example,
    recipe: Recipe,
    gain: float,
    vocabulary: int,
) -> Row:
    where = f"trajectory {example.trajectory_id} node {example.node}"
    ids = fetch(store, example.ids, "int32", where)
    mask = fetch(store, example.mask, "uint8", where)
    if len(ids) != len(mask):
        raise RecordError(f"{where}: {len(ids)} ids but a mask of {len(mask)}")
    if len(ids) and not 0 <= ids.min() <= ids.max() < vocabulary:
        raise RecordError(f"{where}: a token id is outside the base's vocabulary of {vocabulary}")
    targets = np.flatnonzero(mask)
    # Nothing comes before the first token, so nothing can predict it.
    predictable = targets > 0
    if not predictable.any():
        raise RecordError(f"{where}: no token of it is trained on")
    if example.kind == "correction" or recipe.loss == "supervised":
        weight = recipe.correction_weight if example.kind == "correction" else 1.0
        return Row(ids=ids.astype(np.int64), targets=targets[predictable], weight=weight)
    behaviour = fetch(store, _behaviour(example), "float32", where)
    if len(behaviour) != len(targets):
        raise RecordError(f"{where}: {len(targets)} masked tokens but {len(behaviour)} logprobs")
    if not np.isfinite(behaviour).all():
        raise RecordError(f"{where}: a behaviour logprob is not finite")
    return Row(
        ids=ids.astype(np.int64),
        targets=targets[predictable],
        weight=0.0,
        advantage=gain,
        behaviour=behaviour[predictable].astype(np.float32),
    )


def fetch(store: ObjectStore, ref: ArrayRef, dtype: str, where: str) -> NDArray[np.generic]:
    """A record's array out of the object store.

    Raises:
        RecordError: it is of another type or length than its reference says.
    """
    if ref.dtype != dtype:
        raise RecordError(f"{where}: expected an array of {dtype}, got {ref.dtype}")
    array = np.frombuffer(store.get(ref.digest_of_bytes), dtype=_WIRE[dtype])
    if len(array) != ref.count:
        raise RecordError(f"{where}: expected {ref.count} values, got {len(array)}")
    return array
