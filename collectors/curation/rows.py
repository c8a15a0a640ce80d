"""Token ids and mask of what is trained on.

Gold turns keep their ids: prompt and answer as they were fed and sampled. Everything else is
encoded here, once, by the base's template. What cannot be encoded without loss is refused.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.core.digests import Digest, digest_bytes
from appliance.core.errors import EspalierError, RecordError
from appliance.core.objects import ObjectStore
from appliance.core.recipe import LeaveOut
from appliance.core.records import ArrayRef, Json, Tier, Turn
from appliance.engine.template import Spans, Template
from collectors.curation.leave_out import without

Dtype = Literal["int32", "float32", "uint8"]


class LeftOutError(EspalierError):
    """This answer cannot be a row; `reason` is what the dataset counts it under."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence and which of its tokens are trained on."""

    ids: bytes
    """int32 little-endian."""
    mask: bytes
    """uint8, as long as ids."""
    logprobs: bytes | None = None
    """float32 little-endian, one per masked token."""
    tier: Tier
    rewritten: bool = False
    """Whether part of the prompt was left out."""

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def identity(self) -> tuple[Digest, Digest]:
        """Equal for rows that would train the same."""
        return digest_bytes(self.ids), digest_bytes(self.mask)


class Encoder:
    """Makes rows for one base."""

    def __init__(self, template: Template, objects: ObjectStore, base: Digest) -> None:
        self._template = template
        self._objects = objects
        self._base = base

    def keeps_ids(self, turn: Turn, tier: Tier) -> bool:
        """Whether the turn's own ids are this base's."""
        return tier == "gold" and turn.base == self._base

    def as_sampled(self, turn: Turn, parts: Sequence[LeaveOut]) -> Row:
        """A gold answer with its own ids, after the prompt as it was fed or without `parts`."""
        answer = self._array(turn.answer_ids, np.int32)
        if not len(answer):
            raise LeftOutError("no_text", "the answer has no tokens")
        prompt = self._array(turn.prompt_ids, np.int32)
        left = without(turn.messages, parts)
        rewritten = left != list(turn.messages)
        if rewritten:
            prompt = _int32(self._prompt([m for m in left if m is not None], turn.tools))
        logprobs = None if rewritten else self._array(turn.logprobs, np.float32).tobytes()
        return _row(prompt, answer, "gold", logprobs=logprobs, rewritten=rewritten)

    def corrected(self, turn: Turn, tier: Tier, text: str, parts: Sequence[LeaveOut]) -> Row:
        """The text that should have been, as the answer to the turn's prompt."""
        left = without(turn.messages, parts)
        kept = [message for message in left if message is not None]
        spans = self._spans([*kept, {"role": "assistant", "content": text}], turn.tools)
        first, end = spans.answers[-1]
        prompt, answer = _int32(spans.ids[:first]), _int32(spans.ids[first:end])
        rewritten = left != list(turn.messages)
        if self.keeps_ids(turn, tier) and not rewritten:
            prompt = self._array(turn.prompt_ids, np.int32)
        return _row(prompt, answer, "silver", rewritten=rewritten)

    def conversation(self, turn: Turn, trained: Sequence[int], parts: Sequence[LeaveOut]) -> Row:
        """A whole conversation up to and with `turn`; `trained` are positions of its answers."""
        whole = [*turn.messages, turn.answer]
        left = without(whole, parts, keep=trained)
        positions = [i for i, message in enumerate(left) if message is not None]
        kept: list[Json] = [left[i] for i in positions]
        spans = self._spans(kept, turn.tools)
        answers = [i for i, m in zip(positions, kept, strict=True) if m["role"] == "assistant"]
        mask = np.zeros(len(spans.ids), np.uint8)
        for position, (first, end) in zip(answers, spans.answers, strict=True):
            if position in trained:
                mask[first:end] = 1
        return Row(
            ids=_int32(spans.ids).tobytes(),
            mask=mask.tobytes(),
            tier="silver",
            rewritten=left != whole,
        )

    def _prompt(self, messages: Sequence[Json], tools: Sequence[Json]) -> list[int]:
        try:
            return self._template.encode(messages, tools)
        except RecordError as error:
            raise LeftOutError("cannot_encode", error.message) from error

    def _spans(self, messages: Sequence[Json], tools: Sequence[Json]) -> Spans:
        try:
            spans = self._template.spans(messages, tools)
            text = self._template.render(messages, tools, add_generation_prompt=False)
        except RecordError as error:
            raise LeftOutError("cannot_encode", error.message) from error
        if self._template.decode(spans.ids, skip_special_tokens=False) != text:
            raise LeftOutError("cannot_encode", "the tokenizer does not give the prompt back")
        return spans

    def _array(self, ref: ArrayRef | None, dtype: type) -> NDArray[np.generic]:
        if ref is None:
            raise LeftOutError("no_text", "an array is missing")
        data = self._objects.get(ref.digest_of_bytes)
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))


def array_ref(data: bytes, dtype: Dtype) -> ArrayRef:
    """The reference of an array's bytes."""
    size = np.dtype(dtype).itemsize
    return ArrayRef(digest_of_bytes=digest_bytes(data), dtype=dtype, count=len(data) // size)


def _row(
    prompt: NDArray[np.generic],
    answer: NDArray[np.generic],
    tier: Tier,
    *,
    logprobs: bytes | None = None,
    rewritten: bool,
) -> Row:
    mask = np.zeros(len(prompt) + len(answer), np.uint8)
    mask[len(prompt) :] = 1
    ids = np.concatenate([prompt, answer]).astype("<i4")
    return Row(
        ids=ids.tobytes(), mask=mask.tobytes(), logprobs=logprobs, tier=tier, rewritten=rewritten
    )


def _int32(ids: Sequence[int]) -> NDArray[np.generic]:
    return np.asarray(ids, "<i4")
