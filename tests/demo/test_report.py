"""The demo's account: what it calls unlawful, and what its plot shows as served."""

from typing import Any

import pytest

from appliance.demo.report import plot, rates, table, unlawful


def suite(kind: str, champion: int, candidate: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "num_items": 100,
        "champion_passed": champion,
        "candidate_passed": candidate,
    }


ROUNDS = [
    {"round": 1, "verdict": "released", "scorecard": {"suites": [suite("target", 2, 70)]}},
    {"round": 2, "verdict": "refused", "scorecard": {"suites": [suite("target", 70, 0)]}},
    {"round": 3, "verdict": "failed", "scorecard": None},
    {"round": 4, "verdict": "released", "scorecard": {"suites": [suite("target", 70, 99)]}},
]


def account(**changes: Any) -> dict[str, Any]:
    measured = {"items": 100, "rate": 0.02, "by_family": {"stock": [60, 2], "billing": [40, 0]}}
    after = {"items": 100, "rate": 0.99, "by_family": {"stock": [60, 60], "billing": [40, 39]}}
    return {
        "rounds": [{"verdict": "released"}, {"verdict": "refused"}],
        "refused_rounds": 1,
        "failed_requests": 0,
        "errors": {},
        "leaked_prompts": 0,
        "served_adapter": "sha256:a",
        "approved_adapter": "sha256:a",
        "held_out_before": 0.02,
        "held_out_after": 0.99,
        "measured_before": {"held_out": measured},
        "measured_after": {"held_out": after},
        **changes,
    }


def test_a_lawful_run() -> None:
    assert unlawful(account(), poison="lr", shuffled=False) == []


@pytest.mark.parametrize(
    ("changes", "poison", "shuffled", "says"),
    [
        ({"failed_requests": 3, "errors": {"Timeout": 3}}, "lr", False, "3 requests failed"),
        ({"leaked_prompts": 1}, "lr", False, "held-out or protected prompts"),
        ({"served_adapter": "sha256:b"}, "lr", False, "sha256:b serves"),
        ({"rounds": [{"verdict": "failed"}]}, "lr", False, "a round failed"),
        ({"refused_rounds": 0}, "flip", False, "poisoned with flip was not refused"),
        ({}, "none", False, "refused although nothing was poisoned"),
        ({}, "lr", True, "trained on shuffled outcomes was released"),
    ],
)
def test_what_is_unlawful(changes: dict[str, Any], poison: str, shuffled: bool, says: str) -> None:
    (wrong,) = unlawful(account(**changes), poison=poison, shuffled=shuffled)
    assert says in wrong


def test_the_lines_show_what_served_and_the_crosses_what_did_not() -> None:
    served, turned_away = rates(ROUNDS, "target")
    assert served == [(0, 0.02), (1, 0.7), (2, 0.7), (4, 0.99)]
    assert turned_away == [(2, 0.7, 0.0)]


def test_a_picture_even_when_no_round_was_judged(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    for name, rounds in (("all", ROUNDS), ("failed", ROUNDS[2:3]), ("none", [])):
        path = tmp_path / f"{name}.png"
        plot(account(), rounds, path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_table_has_a_line_for_each_family() -> None:
    lines = [line.split() for line in table(account()).splitlines()]
    assert ["held-out", "tasks", "100", "0.020", "0.990"] in lines
    assert ["billing", "40", "0.000", "0.975"] in lines
    assert ["stock", "60", "0.033", "1.000"] in lines
