"""Signs of collapse, each from a curve that shows it and not from a healthy one."""

import pytest

from adapter_training.collapse import Point, warnings_at

_HEALTHY = {
    "loss": 1.0, "supervised": 1.0, "policy": 0.0, "divergence": 0.0, "entropy": 0.8,
    "repeated": 0.2, "repeated_in_data": 0.15, "gradient_norm": 1.0, "learning_rate": 1e-3,
    "num_tokens": 10,
}  # fmt: skip


def curve(**last: float) -> list[Point]:
    points = [Point(step=step, **_HEALTHY) for step in range(10)]
    return [*points, Point(step=10, **{**_HEALTHY, **last})]


@pytest.mark.parametrize(
    ("last", "signs"),
    [
        ({}, set()),
        ({"loss": 0.1, "supervised": 0.1, "entropy": 0.01}, set()),
        ({"loss": 2.5}, {"loss_spike"}),
        ({"entropy": 0.01}, set()),
        ({"entropy": 0.01, "supervised": 1.5}, {"sure_and_wrong"}),
        ({"repeated": 0.9}, {"one_token"}),
        ({"repeated": 0.9, "repeated_in_data": 0.8}, set()),
        ({"skipped": True}, {"diverged"}),
    ],
)
def test_signs(last: dict[str, float], signs: set[str]) -> None:
    assert set(warnings_at(curve(**last))) == signs


def test_a_first_step_is_no_spike() -> None:
    assert warnings_at(curve(loss=100.0)[-1:]) == {}
