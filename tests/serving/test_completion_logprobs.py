"""A stream's logprobs are those of the whole answer, and each token is spelled once."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.engine.template import Template
from serving.answers import Answer
from serving.openai.shapes import CompletionShape
from tests.serving.conftest import Appliance


class Counting:
    """A template that counts how often a token is spelled."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self.spelled = 0

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        self.spelled += 1
        return self._template.decode(ids, **options)


@pytest.mark.parametrize("size", [1, 3])
def test_streamed_logprobs_are_the_whole_ones(appliance: Appliance, size: int) -> None:
    template = Counting(appliance.template)
    shape = CompletionShape(
        "m", cast(Template, template), logprobs=True, token_ids=False, usage=False
    )
    ids = [[*appliance.template.encode_text(text), 0] for text in ("wörter <|im_end|>", "ab" * 20)]
    answers = [Answer(appliance.template) for _ in ids]
    exchange: Any = SimpleNamespace(answers=answers)
    streamed: list[dict[str, Any]] = [{}, {}]

    def choice(index: int, first: int) -> Any:
        return shape._choice(exchange, index, "", first, None)["logprobs"]

    for first in range(0, max(map(len, ids)), size):
        for index, answer in enumerate(answers):
            new = ids[index][first : first + size]
            answer.ids += new
            answer.logprobs += [-1.0] * len(new)
            if new:
                piece = choice(index, first)
                for name in ("tokens", "token_logprobs", "text_offset"):
                    streamed[index].setdefault(name, []).extend(piece[name])
    assert template.spelled == sum(map(len, ids))
    for index in range(2):
        whole = choice(index, 0)
        assert streamed[index] == {name: whole[name] for name in streamed[index]}
        ends = [0]
        for token in whole["tokens"]:
            ends.append(ends[-1] + len(token))
        assert whole["text_offset"] == ends[:-1]
