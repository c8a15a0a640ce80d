"""Which turn goes on from which, as a table of cases."""

from typing import Any

import msgspec
import numpy as np
import pytest

from appliance.core.records import Turn
from collectors.joins import Link, forest, goes_on, in_order, link_of, roots


def ids(*values: int) -> bytes:
    return np.asarray(values, "<i4").tobytes()


def gold(make: Any, name: str, prompt: list[int], answer: list[int], at: float = 0.0) -> Link:
    turn, _ = make.gold(name, prompt, answer, at=at)
    return link_of(turn, ids(*prompt), ids(*answer))


def silver(make: Any, name: str, messages: list[Any], content: str, at: float = 0.0) -> Link:
    turn: Turn = make.silver(name, messages, content, at=at)
    return link_of(turn, None, None)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_the_longest_prefix_is_the_parent(make: Any) -> None:
    links = [
        gold(make, "a", [1], [2]),
        gold(make, "b", [1, 2, 3], [4]),
        gold(make, "c", [1, 2, 3, 4, 5], [6]),
        gold(make, "rewritten", [1, 2, 9, 4, 5], [6]),
        gold(make, "new", [7], [8]),
    ]
    assert forest(links) == [None, 0, 1, 0, None]
    assert roots(forest(links)) == [0, 0, 0, 0, 4]


def test_equal_text_with_other_ids_is_a_branch(make: Any) -> None:
    first = silver(make, "a", [user("q")], "x")
    with_ids = Link(
        **{**as_dict(first), "prompt_ids": ids(1), "end_ids": ids(1, 2), "turn_id": "g"}
    )
    second = silver(make, "b", [user("q"), {"role": "assistant", "content": "x"}, user("r")], "y")
    other_ids = Link(**{**as_dict(second), "prompt_ids": ids(1, 3, 4), "end_ids": ids(1, 3, 4, 5)})
    assert not goes_on(other_ids, with_ids)
    assert goes_on(second, with_ids), "where one has no ids, the messages decide"


@pytest.mark.parametrize(
    "echo",
    [
        {"content": "x", "role": "assistant"},
        {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None},
    ],
)
def test_clients_may_drop_nulls_and_reorder(make: Any, echo: dict[str, Any]) -> None:
    first = silver(make, "a", [user("q")], "x")
    assert goes_on(silver(make, "b", [user("q"), echo, user("r")], "y"), first)


def test_arguments_are_compared_as_values(make: Any) -> None:
    def call(arguments: str) -> dict[str, Any]:
        return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}

    first = make.silver("a", [user("q")], "")
    answer = {"role": "assistant", "content": None, "tool_calls": [call('{"a": 1}')]}
    link = link_of(msgspec.structs.replace(first, answer=answer), None, None)
    echo = {"role": "assistant", "content": "", "tool_calls": [call('{ "a":1 }')]}
    assert goes_on(silver(make, "b", [user("q"), echo], "y"), link)


def test_empty_answers_make_no_circle(make: Any) -> None:
    links = [gold(make, name, [1, 2], []) for name in "abc"]
    assert forest(links) == [None, None, None]


def test_of_twins_the_one_that_had_ended_last(make: Any) -> None:
    links = [
        gold(make, "early", [1], [2], at=1.0),
        gold(make, "late", [1], [2], at=2.0),
        gold(make, "too late", [1], [2], at=9.0),
        gold(make, "child", [1, 2, 3], [4], at=5.0),
    ]
    assert forest(links)[3] == 1


def test_parents_come_before_children_whatever_the_clocks_say(make: Any) -> None:
    links = [gold(make, "child", [1, 2, 3], [4], at=0.0), gold(make, "parent", [1], [2], at=5.0)]
    assert in_order(links, forest(links)) == [1, 0]


def as_dict(link: Link) -> dict[str, Any]:
    return {name: getattr(link, name) for name in link.__struct_fields__}
