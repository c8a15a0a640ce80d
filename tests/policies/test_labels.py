"""Labels only flow up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import PolicyError
from policies.labels import LEVELS, Label, flows_to, join, parse_label

labels = st.builds(
    lambda level, compartments: str(Label(level, frozenset(compartments))),
    st.integers(0, len(LEVELS) - 1),
    st.sets(st.sampled_from(["finance", "legal", "hr"])),
)


@pytest.mark.parametrize(
    ("low", "high", "allowed"),
    [
        ("public", "internal", True),
        ("internal", "internal", True),
        ("secret", "internal", False),
        ("internal/hr", "internal", False),
        ("internal/hr", "secret/hr+legal", True),
        ("secret", "internal/hr", False),
    ],
)
def test_where_data_may_go(low: str, high: str, allowed: bool) -> None:
    assert flows_to(low, high) is allowed


@given(st.lists(labels, min_size=1, max_size=5))
def test_everything_flows_to_its_join(parts: list[str]) -> None:
    assert all(flows_to(part, join(parts)) for part in parts)


@given(labels, labels, labels)
def test_flows_chain_and_never_turn_round(a: str, b: str, c: str) -> None:
    if flows_to(a, b) and flows_to(b, c):
        assert flows_to(a, c)
    if flows_to(a, b) and flows_to(b, a):
        assert parse_label(a) == parse_label(b)


@pytest.mark.parametrize("text", ["", "top", "internal/", "internal/a++b", "Internal"])
def test_what_is_no_label_is_an_error(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_label(text)


def test_nothing_has_no_label() -> None:
    with pytest.raises(PolicyError):
        join([])
