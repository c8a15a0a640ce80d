"""A few hundred of the sequences that `make law` runs a hundred thousand of."""

from hypothesis import HealthCheck, settings

from tests.law.machine import Review, counts, leave

TestReview = Review.TestCase
TestReview.settings = settings(
    max_examples=300,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_sequences_get_as_far_as_a_release() -> None:
    """A law that nobody ever fulfils would hold too."""
    assert counts["sequences"] > 100
    assert counts["releases"] > 0


def teardown_module() -> None:
    leave()
