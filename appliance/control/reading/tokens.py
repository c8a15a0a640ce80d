"""A turn token by token: the piece, how likely it was, and whether it is trained on."""

import math
import struct
from functools import lru_cache
from pathlib import Path

import msgspec
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from appliance.control.identity import Person
from appliance.control.reading.trajectory import branch_of, tree_of
from appliance.control.steps import Ground
from appliance.core.digests import Digest
from appliance.core.errors import IntegrityError, NotFoundError
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef

TOKENS = 400
_LEAD = 40
"""Tokens of the prompt that are shown before the answer."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One token. A character that several tokens make stands with the last of them."""

    text: str
    id: int
    logprob: float | None
    """When it was sampled, under the sampling parameters; None of a prompt's token."""
    prob: float | None
    trained: bool
    """Whether the mask lets a loss see it."""


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """A part of prompt and answer."""

    node: int
    start: int
    """The first of `tokens`, counted from the prompt's beginning."""
    num_prompt: int
    num_tokens: int
    """Prompt and answer together."""
    tokens: tuple[Token, ...]


def tokens(
    ground: Ground,
    person: Person,
    trajectory_id: str,
    node: int,
    *,
    start: int | None = None,
    version: int | None = None,
) -> Tokens:
    """400 tokens of a gold turn from `start` on; without it, from just before the answer.

    Raises:
        NotFoundError: no such turn, it has no token ids, or its base is not here.
    """
    _, tree = tree_of(ground, person, trajectory_id, version)
    branch = branch_of(tree, node)
    turn = branch.held
    if turn.prompt_ids is None or turn.answer_ids is None or turn.base is None:
        raise NotFoundError(
            f"turn {node} has no token ids: it is not gold",
            next_step="work that goes through the gateway keeps its tokens",
        )
    prompt = _array(ground.store, turn.prompt_ids, "i")
    ids = [*prompt, *_array(ground.store, turn.answer_ids, "i")]
    logprobs = _array(ground.store, turn.logprobs, "f") if turn.logprobs else ()
    known = [*[None] * len(prompt), *logprobs, *[None] * len(ids)]
    first = min(max(len(prompt) - _LEAD if start is None else start, 0), len(ids))
    end = min(first + TOKENS, len(ids))
    pieces = _pieces(ground, turn.base, [int(one) for one in ids[first:end]])
    return Tokens(
        node=node,
        start=first,
        num_prompt=len(prompt),
        num_tokens=len(ids),
        tokens=tuple(
            Token(
                text=piece,
                id=int(ids[place]),
                logprob=known[place],
                prob=_probability(known[place]),
                # As sealed: a turn that is not yet may still lose it.
                trained=place >= len(prompt) and branch.trainable is not False,
            )
            for place, piece in zip(range(first, end), pieces, strict=True)
        ),
    )


def _pieces(ground: Ground, base: Digest, ids: list[int]) -> list[str]:
    path = ground.home.base(base) / "tokenizer.json"
    if not path.exists():
        raise NotFoundError(
            f"the base {base} that wrote this is not here any more",
            next_step="register it again to see its tokens as text",
        )
    tokenizer = _tokenizer(path)
    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer, one) or "" for one in ids]


@lru_cache(maxsize=1)
def _tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


def _array(objects: ObjectStore, ref: ArrayRef, kind: str) -> tuple[float, ...]:
    data = objects.get(ref.digest_of_bytes)
    if len(data) != 4 * ref.count:
        raise IntegrityError(f"array {ref.digest_of_bytes} is not as long as its record says")
    return struct.unpack(f"<{ref.count}{kind}", data)


def _probability(logprob: float | None) -> float | None:
    return None if logprob is None or math.isnan(logprob) else min(math.exp(min(logprob, 0.0)), 1.0)
