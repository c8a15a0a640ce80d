"""Judging by likelihood: how probable a side finds an answer that is known to be good.

For work that nobody can do again, imported trajectories above all: there is no check to run, but a
model that has learned the job finds held-out successful answers likelier. Unit: nats per answer
token, averaged over an item's answer tokens, so that long answers do not outweigh short ones.
"""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from appliance.core.digests import Digest
from appliance.core.errors import RecordError
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef, Dataset, Item, Json, convert
from appliance.engine.client import Engine
from appliance.engine.template import Template
from appliance.evaluation.suites import LikelihoodCheck, Suite, make_suite

_BATCH_TOKENS = 4096

Row = tuple[list[int], list[int]]
"""A row's ids, and its mask: 1 on each token of the answer."""


def score_items(
    engine: Engine,
    adapter: Digest | None,
    items: Sequence[Item],
    template: Template,
    store: ObjectStore,
    context_length: int,
) -> list[float | None]:
    """Mean logprob per answer token of each item; None where the base cannot encode or hold it."""
    rows = [encode_item(item, template, store) for item in items]
    scored: list[float | None] = [None] * len(rows)
    fitting = [at for at, row in enumerate(rows) if row and len(row[0]) <= context_length]
    for batch in _batches(fitting, rows):
        logprobs = engine.score(adapter, [rows[at][0] for at in batch])  # type: ignore[index]
        for at, row_logprobs in zip(batch, logprobs, strict=True):
            scored[at] = _mean(row_logprobs, rows[at][1])  # type: ignore[index]
    return scored


def likelihood_suite(name: str, held_out: Dataset) -> Suite:
    """A target suite of a held-out dataset's successes, row by row as curation encoded them.

    Raises:
        RecordError: it holds no success.
    """
    items = [
        Item(
            item_id=f"{example.trajectory_id}/{example.node}",
            family=example.family,
            messages=(),
            check=msgspec.to_builtins(LikelihoodCheck(ids=example.ids, mask=example.mask)),
        )
        for example in held_out.examples
        if example.kind == "success"
    ]
    return make_suite(name, "target", items)


def encode_item(item: Item, template: Template, store: ObjectStore) -> Row | None:
    """The item as a row; None where it cannot be encoded without loss or has no answer token.

    Ids are taken as they are; text is encoded once, by the base's template. Without an answer of
    its own the item's last assistant message is the answer.

    Raises:
        RecordError: ids without a mask, or the other way round.
    """
    check = convert(item.check, LikelihoodCheck)
    if check.ids is not None or check.mask is not None:
        ids, mask = _array(check.ids, "ids", store), _array(check.mask, "mask", store)
        if len(ids) != len(mask):
            raise RecordError(f"item {item.item_id!r}: {len(ids)} ids but a mask of {len(mask)}")
    else:
        answer = check.answer
        message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
        messages = [*item.messages, *([message] if message else [])]
        try:
            spans = template.spans(messages, check.tools)
        except RecordError:
            return None
        first, last = spans.answers[-1] if spans.answers else (0, 0)
        ids, mask = spans.ids, [int(first <= at < last) for at in range(len(spans.ids))]
    # The first token of a row has no logprob.
    return (ids, mask) if any(mask[1:]) else None


def _array(value: Json, what: str, store: ObjectStore) -> list[int]:
    try:
        ref = msgspec.convert(value, ArrayRef)
    except msgspec.ValidationError as error:
        raise RecordError(
            f"a likelihood's {what} must be an array in the store: {error}"
        ) from error
    dtype = np.dtype(ref.dtype).newbyteorder("<")
    return [int(number) for number in np.frombuffer(store.get(ref.digest_of_bytes), dtype)]


def _mean(logprobs: Sequence[float], mask: Sequence[int]) -> float:
    """`logprobs[j]` belongs to token j + 1."""
    counted = [lp for lp, trained in zip(logprobs, mask[1:], strict=True) if trained]
    return float(np.mean(counted))


def _batches(indices: Sequence[int], rows: Sequence[Row | None]) -> Iterator[list[int]]:
    """Rows of like length together, up to `_BATCH_TOKENS` each."""
    batch: list[int] = []
    for at in sorted(indices, key=lambda i: len(rows[i][0])):  # type: ignore[index]
        length = len(rows[at][0])  # type: ignore[index]
        if batch and (len(batch) + 1) * length > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch
