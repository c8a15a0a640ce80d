"""From a dataset's examples to rows and advantages; what is refused on the way."""

import numpy as np
import pytest

from adapter_training.advantages import advantages
from adapter_training.rows import load_rows
from appliance.core.errors import IntegrityError, RecordError, RefusedError
from appliance.core.objects import ObjectStore
from appliance.core.recipe import Recipe
from appliance.core.records import Dataset, Example, decode


def load(maker, examples, **recipe):  # type: ignore[no-untyped-def]
    dataset = decode(maker.store.get(maker.seal(examples)), Dataset)
    return load_rows(maker.store, dataset, Recipe(**recipe), vocabulary=258)


def test_only_the_masked_tokens_are_targets(maker) -> None:  # type: ignore[no-untyped-def]
    (row,), unused = load(maker, [maker.example(1)])
    answer = row.ids[row.targets[:-1]].tolist()
    assert maker.template.decode(answer) == "one(take)"
    assert row.ids[row.targets[-1]] == 257
    assert row.behaviour is None
    assert unused == {}


def test_supervised_takes_successes_and_corrections_and_says_what_it_left(maker) -> None:  # type: ignore[no-untyped-def]
    kinds = ["success", "failure", "correction"]
    examples = [maker.example(i, kind=kind) for i, kind in enumerate(kinds)]
    rows, unused = load(maker, examples, correction_weight=2.0)
    assert [row.weight for row in rows] == [1.0, 2.0]
    assert unused == {"failures under a supervised loss": 1}
    rows, unused = load(maker, examples, corrections=False)
    assert (len(rows), unused["corrections switched off"]) == (1, 1)


def test_policy_gradient_takes_logged_answers_and_corrections(maker) -> None:  # type: ignore[no-untyped-def]
    examples = [
        maker.example(0),
        maker.example(2, kind="failure"),
        maker.example(4, kind="correction", logprobs=None),
    ]
    rows, _ = load(maker, examples, loss="outcome_pg", negative_weight=0.3)
    assert [row.advantage for row in rows] == pytest.approx([0.5, -0.15, 0.0])
    assert [row.weight for row in rows] == [0.0, 0.0, 1.0]
    assert [row.behaviour is None for row in rows] == [False, False, True]
    assert len(rows[0].behaviour) == len(rows[0].targets)


def test_policy_gradient_leaves_out_what_teaches_nothing(maker) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RefusedError, match="1 no better and no worse than their baseline"):
        load(maker, [maker.example(0)], loss="outcome_pg")


@pytest.mark.parametrize(
    ("fields", "recipe", "error", "match"),
    [
        ({"logprobs": None}, {"loss": "outcome_pg"}, RefusedError, "no behaviour logprobs"),
        ({"kind": "failure"}, {}, RefusedError, "nothing that the loss 'supervised' can learn"),
    ],
)
def test_refused(maker, fields, recipe, error, match) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=match):
        load(maker, [maker.example(0, **fields), maker.example(1, **fields)], **recipe)


@pytest.mark.parametrize(
    ("name", "values", "dtype", "match"),
    [
        ("ids", [1, 2, 999], "int32", "vocabulary of 258"),
        ("ids", [1, 2], "int32", "2 ids but a mask of"),
        ("mask", [1, 0, 0], "float32", "expected an array of uint8"),
        ("logprobs", [-1.0], "float32", "masked tokens but 1 logprobs"),
        ("logprobs", [float("nan")] * 3, "float32", "masked tokens but 3 logprobs"),
    ],
)
def test_arrays_that_do_not_fit(maker, name, values, dtype, match) -> None:  # type: ignore[no-untyped-def]
    example = maker.example(0, **{name: maker.array(values, dtype)})
    if name == "ids" and len(values) == 3:
        example = maker.example(0, ids=example.ids, mask=maker.array([0, 0, 1], "uint8"))
    with pytest.raises(RecordError, match=match):
        load(maker, [example, maker.example(2, kind="failure")], loss="outcome_pg")


def test_damaged_arrays_are_noticed(maker, store: ObjectStore) -> None:  # type: ignore[no-untyped-def]
    example = maker.example(0)
    store._path(example.ids.digest_of_bytes).write_bytes(b"\0" * 4 * example.ids.count)
    with pytest.raises(IntegrityError, match="damaged"):
        load(maker, [example])


def attempt(number: int, reward: float, **fields: object) -> Example:
    values: dict[str, object] = {
        "trajectory_id": f"t{number}", "version": 1, "node": 0, "kind": "success", "tier": "gold",
        "family": "f", "task": "", "reward": reward, "ids": None, "mask": None, "logprobs": None,
        "adapter": None,
    }  # fmt: skip
    return Example(**{**values, **fields})  # type: ignore[arg-type]


def test_a_single_attempt_is_compared_with_its_family() -> None:
    examples = [
        attempt(1, 1.0),
        attempt(2, 0.0),
        attempt(3, 0.0),
        attempt(4, 0.0),
        attempt(5, 1.0, family="g"),
    ]
    expected = [0.75, -0.25, -0.25, -0.25, 0.0]
    assert advantages(examples, negative_weight=1.0) == pytest.approx(expected)


def test_two_attempts_of_one_policy_version_are_compared_with_each_other() -> None:
    adapter = "sha256:" + "b" * 64
    examples = [
        attempt(1, 1.0, task="x", adapter=adapter),
        attempt(2, 0.0, task="x", adapter=adapter),
        attempt(3, 0.0, task="x"),
        *(attempt(n, 0.0) for n in range(4, 11)),
    ]
    values = advantages(examples, negative_weight=1.0)
    assert values[:3] == pytest.approx([0.5, -0.5, -0.1])


def test_a_trajectory_of_many_turns_counts_once_in_the_baseline() -> None:
    examples = [attempt(1, 1.0, node=node) for node in range(3)] + [attempt(2, 0.0)]
    values = advantages(examples, negative_weight=0.5)
    assert values == pytest.approx([0.5, 0.5, 0.5, -0.25])
    assert np.isfinite(values).all()
