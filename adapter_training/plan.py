"""Which rows meet in which step: a function of the lengths, the recipe and its seed alone."""

import random
from collections.abc import Iterator, Sequence

import msgspec

from appliance.core.errors import RecordError
from appliance.core.recipe import Recipe


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One optimizer step: indices into the examples and into the replay rows."""

    examples: tuple[int, ...]
    replay: tuple[int, ...]
    num_tokens: int


def plan(lengths: Sequence[int], replay_lengths: Sequence[int], recipe: Recipe) -> list[Step]:
    """All steps of a run, in order; `recipe.token_budget` ends it early.

    Args:
        lengths: tokens of each example; every epoch takes each one once, in a new order.
        replay_lengths: tokens of each replay row; taken in turn, in a shuffled order.

    Raises:
        RecordError: the recipe leaves no room for examples.
    """
    if recipe.replay_share >= 1:
        raise RecordError("replay_share must be below 1: a step needs examples")
    share = recipe.replay_share if replay_lengths else 0.0
    replay = _endless(len(replay_lengths), recipe.seed)
    room = recipe.batch_tokens * (1 - share)
    steps: list[Step] = []
    spent = 0
    for epoch in range(recipe.epochs):
        order = _shuffled(len(lengths), f"{recipe.seed}:examples:{epoch}")
        for examples in _fill(order, lengths, room):
            # At least one replay row, or a step of one long example would forget unchecked.
            count = max(1, round(len(examples) * share / (1 - share))) if share else 0
            drawn = tuple(next(replay) for _ in range(count))
            tokens = sum(lengths[i] for i in examples) + sum(replay_lengths[i] for i in drawn)
            if recipe.token_budget and spent + tokens > recipe.token_budget and steps:
                return steps
            spent += tokens
            steps.append(Step(examples=examples, replay=drawn, num_tokens=tokens))
    return steps


def learning_rate(step: int, total: int, recipe: Recipe) -> float:
    """Linear warm-up over `warmup_share` of the steps, then linear decay towards 0 at `total`."""
    warmup = round(total * recipe.warmup_share)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    return recipe.learning_rate * (total - step) / (total - warmup)


def _fill(order: Sequence[int], lengths: Sequence[int], room: float) -> Iterator[tuple[int, ...]]:
    """Cut `order` into runs of at most `room` tokens (a longer row is a run of its own)."""
    run: list[int] = []
    used = 0
    for index in order:
        if run and used + lengths[index] > room:
            yield tuple(run)
            run, used = [], 0
        run.append(index)
        used += lengths[index]
    if run:
        yield tuple(run)


def _endless(count: int, seed: int) -> Iterator[int]:
    turn = 0
    while count:
        yield from _shuffled(count, f"{seed}:replay:{turn}")
        turn += 1


def _shuffled(count: int, key: str) -> list[int]:
    order = list(range(count))
    random.Random(key).shuffle(order)  # noqa: S311 - an order of training rows, not a secret
    return order
