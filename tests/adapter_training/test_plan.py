"""Which rows meet in which step."""

import pytest

from adapter_training.plan import learning_rate, plan
from appliance.core.errors import RecordError
from appliance.core.recipe import Recipe


def test_every_epoch_takes_each_example_once() -> None:
    recipe = Recipe(batch_tokens=100, epochs=3, replay_share=0.25)
    steps = plan([10] * 23, [7] * 5, recipe)
    taken = [index for step in steps for index in step.examples]
    assert sorted(taken) == sorted(list(range(23)) * 3)
    assert taken[:23] != taken[23:46]


def test_steps_hold_their_tokens_and_their_share_of_replay() -> None:
    recipe = Recipe(batch_tokens=100, epochs=1, replay_share=0.3)
    full, *_, last = plan([10] * 18, [10] * 5, recipe)
    assert (len(full.examples), len(full.replay), full.num_tokens) == (7, 3, 100)
    assert (len(last.examples), len(last.replay)) == (4, 2)


def test_a_long_example_is_a_step_and_still_meets_replay() -> None:
    (step,) = plan([5000], [10] * 5, Recipe(batch_tokens=100, epochs=1, replay_share=0.1))
    assert (step.examples, len(step.replay)) == ((0,), 1)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    lengths, replay = list(range(5, 60)), list(range(5, 20))
    plans = [plan(lengths, replay, Recipe(batch_tokens=200, seed=seed)) for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_a_token_budget_ends_it_early() -> None:
    recipe = Recipe(batch_tokens=100, epochs=50, token_budget=450, replay_share=0.0)
    steps = plan([10] * 40, [], recipe)
    assert sum(step.num_tokens for step in steps) == 400


def test_no_replay_rows_means_a_share_of_none() -> None:
    (step,) = plan([10] * 3, [], Recipe(epochs=1, replay_share=0.5))
    assert step.replay == ()


def test_a_recipe_of_replay_alone_is_refused() -> None:
    with pytest.raises(RecordError, match="below 1"):
        plan([10], [10], Recipe(replay_share=1.0))


def test_the_learning_rate_warms_up_and_decays() -> None:
    recipe = Recipe(learning_rate=1.0, warmup_share=0.2)
    rates = [learning_rate(step, 10, recipe) for step in range(10)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 8)
