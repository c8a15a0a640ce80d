"""The probe proves what is loaded, or says why not."""

import math

import pytest

from appliance.core.errors import AdapterError
from appliance.core.records import Probe
from serving.probe import TOLERANCE, require_proof

TRAINED = ((-1.0, -2.0), (-0.5,))
BASE = ((-1.4, -2.4), (-0.9,))
OTHER = ((-1.2, -1.8), (-0.7,))
PROBE = Probe(ids=((1, 2, 3), (4, 5)), logprobs=TRAINED, base_logprobs=BASE)
FLOAT32 = TOLERANCE["float32"]


def shift(rows: tuple[tuple[float, ...], ...], by: float) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(value + by for value in row) for row in rows)


def test_what_was_trained_passes() -> None:
    gaps = require_proof(PROBE, shift(TRAINED, 1e-5), base=BASE, champion=OTHER, tolerance=FLOAT32)
    assert gaps["trainer"] == pytest.approx(1e-5)
    assert gaps["base"] > 0.3
    assert gaps["champion"] > 0.1


NAN = ((-1.0, math.nan), (-0.5,))

CASES = {
    "other weights": (OTHER, BASE, None, "probe_mismatch"),
    "nearly the same weights": (shift(TRAINED, 2 * FLOAT32), BASE, None, "probe_mismatch"),
    "the base itself": (BASE, BASE, None, "probe_mismatch"),
    "not a number": (NAN, BASE, None, "probe_mismatch"),
    "another base underneath": (TRAINED, OTHER, None, "probe_mismatch"),
    "rows missing": (TRAINED[:1], BASE, None, "probe_mismatch"),
    "row too short": (((-1.0,), (-0.5,)), BASE, None, "probe_mismatch"),
    "nothing": ((), BASE, None, "probe_mismatch"),
    "like the champion": (TRAINED, BASE, shift(TRAINED, 1e-4), "probe_like_champion"),
    "champion not a number": (TRAINED, BASE, NAN, "probe_like_champion"),
}


@pytest.mark.parametrize("case", CASES)
def test_anything_else_does_not(case: str) -> None:
    served, base, champion, reason = CASES[case]
    with pytest.raises(AdapterError) as caught:
        require_proof(PROBE, served, base=base, champion=champion, tolerance=FLOAT32)
    assert caught.value.reason == reason


def test_an_adapter_that_was_trained_to_nothing_is_like_the_base() -> None:
    probe = Probe(ids=PROBE.ids, logprobs=BASE, base_logprobs=BASE)
    with pytest.raises(AdapterError) as caught:
        require_proof(probe, BASE, base=BASE, champion=None, tolerance=FLOAT32)
    assert caught.value.reason == "probe_like_base"


def test_an_empty_probe_proves_nothing() -> None:
    probe = Probe(ids=(), logprobs=(), base_logprobs=())
    with pytest.raises(AdapterError):
        require_proof(probe, (), base=(), champion=None, tolerance=FLOAT32)
