"""A recipe: how a round turns a dataset into an adapter. Data, read from TOML."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from appliance.core.errors import RecordError
from appliance.core.records import Record

Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]


class LeaveOut(Record, frozen=True, kw_only=True):
    """A part of the prompt that training leaves out. Every field that is set must match a message.

    A manual in the system prompt is ``role = "system"``; few-shot turns before the request are
    ``before_last_user = true``; text between two marks is ``mark = ["<manual>", "</manual>"]``.
    """

    role: Literal["system", "user", "assistant", "tool"] | None = None
    positions: tuple[int, ...] = ()
    before_last_user: bool = False
    mark: tuple[str, str] | None = None


class Recipe(Record, frozen=True, kw_only=True):
    """Every number that training needs."""

    schema: Literal["recipe/1"] = "recipe/1"
    name: str = "default"
    loss: Literal["supervised", "outcome_pg"] = "supervised"
    rank: Count = 8
    alpha: Count = 16
    learning_rate: Positive = 1e-3
    epochs: Count = 2
    batch_tokens: Count = 4096
    """Tokens of one optimizer step."""
    max_tokens: Count = 2048
    """An example longer than this is left out at curation, with that reason."""
    token_budget: Annotated[int, Meta(ge=0)] = 0
    """Training tokens over all epochs; 0 means no budget."""
    clip_norm: Positive = 1.0
    warmup_share: Share = 0.05
    corrections: bool = True
    correction_weight: Positive = 1.0
    replay_share: Share = 0.3
    """Share of a step's rows that come from the base's replay prompts."""
    kl_weight: Annotated[float, Meta(ge=0)] = 0.1
    """Weight of KL(adapter || base) on replayed prompts."""
    kl_every: Count = 1
    negative_weight: Share = 0.3
    """outcome_pg: failures' advantages are damped by this."""
    importance_cap: Positive = 2.0
    """outcome_pg: token weights min(pi / mu, cap)."""
    leave_out: tuple[LeaveOut, ...] = ()
    keep_share: Share = 0.0
    """Share of examples that keep the left-out part (so that the model still works with it)."""
    seed: int = 0


def parse_recipe(text: str, *, source: str = "recipe") -> Recipe:
    """A recipe from TOML. `source` names it in errors.

    Raises:
        RecordError: not TOML, an unknown key, a value out of range, or a combination that is
            not legal: a rewritten prompt has no behaviour logprobs, so only supervised losses;
            KL needs replayed prompts.
    """
    try:
        recipe = msgspec.convert(tomllib.loads(text), Recipe)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RecordError(f"{source}: {error}", next_step="see docs/records.md") from error
    if recipe.leave_out and recipe.loss != "supervised":
        raise RecordError(
            f"{source}: leave_out rewrites prompts, so the loss must be supervised, "
            f"got {recipe.loss!r}"
        )
    # KL is measured on the replayed rows: without any, its weight would count for nothing.
    if recipe.kl_weight and not recipe.replay_share:
        raise RecordError(
            f"{source}: kl_weight is {recipe.kl_weight:g}, but replay_share is 0, so no prompt "
            "would be left to measure KL on",
            next_step="set a replay_share above 0 (0.3, say), or kl_weight = 0 as well",
        )
    return recipe


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file; see `parse_recipe`."""
    try:
        return parse_recipe(path.read_text(), source=f"recipe {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"recipe {path}: {error}") from error
