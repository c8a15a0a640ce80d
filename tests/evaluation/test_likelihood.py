"""Which tokens a likelihood is about."""

import pytest

from appliance.core.errors import RecordError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef, Item, Json
from appliance.engine.template import Template
from appliance.evaluation.likelihood import encode_item, score_items

ASK = {"role": "user", "content": "how many?"}


def scored(check: dict[str, Json], *messages: Json) -> Item:
    check = {"kind": "likelihood", **check}
    return Item(item_id="i", family="f", messages=messages, check=check)


def answer_of(item: Item, template: Template, store: ObjectStore) -> str:
    row = encode_item(item, template, store)
    assert row is not None
    return template.decode([t for t, m in zip(*row, strict=True) if m], skip_special_tokens=False)


@pytest.fixture
def store(home: Home) -> ObjectStore:
    return ObjectStore(home.objects)


def test_only_the_answers_tokens_count(template: Template, store: ObjectStore) -> None:
    earlier = {"role": "assistant", "content": "which?"}
    item = scored({"answer": "seven"}, ASK, earlier, ASK)
    assert answer_of(item, template, store) == "seven<|im_end|>"


def test_without_an_answer_of_its_own_the_last_message_is_it(
    template: Template, store: ObjectStore
) -> None:
    item = scored({}, ASK, {"role": "assistant", "content": "eight"})
    assert answer_of(item, template, store) == "eight<|im_end|>"


def test_an_answer_may_call_tools(template: Template, store: ObjectStore) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "count", "arguments": "{}"}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    tool = {"type": "function", "function": {"name": "count", "parameters": {"type": "object"}}}
    text = answer_of(scored({"answer": message, "tools": [tool]}, ASK), template, store)
    assert '"name": "count"' in text


def test_nothing_to_score_is_none_not_zero(template: Template, store: ObjectStore) -> None:
    assert encode_item(scored({}, ASK), template, store) is None


def test_ids_need_a_mask_of_their_length(template: Template, store: ObjectStore) -> None:
    ids = ArrayRef(digest_of_bytes=store.put(bytes(12)), dtype="int32", count=3)
    mask = ArrayRef(digest_of_bytes=store.put(bytes(2)), dtype="uint8", count=2)
    with pytest.raises(RecordError, match="mask must be an array"):
        encode_item(scored({"ids": ids}), template, store)
    with pytest.raises(RecordError, match="3 ids but a mask of 2"):
        encode_item(scored({"ids": ids, "mask": mask}), template, store)


def test_the_mean_is_over_answer_tokens_and_long_rows_are_void(
    template: Template, store: ObjectStore
) -> None:
    class Counting:
        """Scores token j + 1 of a row as -j."""

        def score(self, adapter: object, ids: list[list[int]]) -> list[list[float]]:
            return [[-float(j) for j in range(len(row) - 1)] for row in ids]

    items = [scored({"answer": text}, ASK) for text in ("a", "b" * 300, "cc")]
    short, long, other = score_items(
        Counting(),  # type: ignore[arg-type]
        None,
        items,
        template,
        store,
        context_length=100,
    )
    row = encode_item(items[0], template, store)
    assert row is not None
    at = [j for j, m in enumerate(row[1]) if m]
    assert short == pytest.approx(-sum(j - 1 for j in at) / len(at))
    assert long is None
    assert other is not None
    assert short != other
