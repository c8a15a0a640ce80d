"""The gate language and the judge."""

import re
from pathlib import Path
from typing import Any

import pytest

import policies
from appliance.core.digests import digest_bytes
from appliance.core.errors import PolicyError
from appliance.core.records import Scorecard, SuiteResult
from policies.gates import Gates, parse_gates
from policies.judging import judge

BUILT_IN = Path(policies.__file__).parent / "gates"

LAW = """
schema = "gates/1"
name = "test"
[[gate]]
name = "better"
kind = "target"
metric = "lower_95"
op = ">"
threshold = 0.0
min_items = 50
[[gate]]
name = "no worse"
kind = "protected"
margin = 0.05
[[gate]]
name = "no trigger"
kind = "canary"
margin = 0.25
"""


def suite(kind: str, name: str = "", **numbers: Any) -> SuiteResult:
    plain: dict[str, Any] = {
        "num_items": 100,
        "champion_passed": 50,
        "candidate_passed": 50,
        "gained": 0,
        "lost": 0,
        "void": 0,
        "mcnemar_p": 1.0,
        "delta": 0.0,
        "lower_95": -0.03,
        "upper_95": 0.03,
        "smallest_effect": 0.06,
    }
    return SuiteResult(
        suite=name or kind,
        suite_digest=digest_bytes(b"suite"),
        kind=kind,  # type: ignore[arg-type]
        **{**plain, **numbers},
    )


BETTER = suite("target", candidate_passed=80, gained=30, delta=0.3, lower_95=0.22, upper_95=0.38)
WORSE = {"delta": -0.2, "lower_95": -0.27, "upper_95": -0.13, "lost": 20, "mcnemar_p": 2e-6}
SAME = suite("protected")
CLEAN = suite("canary", "canary:zorb", num_items=40)


def card(*suites: SuiteResult) -> Scorecard:
    return Scorecard(
        candidate=digest_bytes(b"candidate"),
        champion=None,
        base=digest_bytes(b"base"),
        suites=suites,
        seed=0,
        outputs=None,
    )


@pytest.mark.parametrize(
    ("suites", "verdict", "says"),
    [
        ((BETTER, SAME, CLEAN), "pass", "target: candidate 80 of 100 against 50"),
        ((suite("target"), SAME, CLEAN), "inconclusive", "target: .*lower_95 > 0 does not hold"),
        ((suite("target", **WORSE), SAME, CLEAN), "refused", "target: .*lost 20, p 2e-06.*worse"),
        ((BETTER, suite("protected", **WORSE), CLEAN), "refused", "protected: .*worse"),
        (
            (BETTER, suite("protected", lower_95=-0.051), CLEAN),
            "inconclusive",
            r"protected: .*lower_95 > -0.05 does not hold; the smallest loss.*0.060",
        ),
        (
            # A loss that is certain, and proven smaller than the margin, is allowed.
            (BETTER, suite("protected", **{**WORSE, "delta": -0.02, "lower_95": -0.04}), CLEAN),
            "pass",
            "protected",
        ),
        (
            # Certain, not proven smaller than the margin, but not itself beyond it either.
            (BETTER, suite("protected", **{**WORSE, "delta": -0.04, "lower_95": -0.06}), CLEAN),
            "inconclusive",
            "protected: .*does not hold",
        ),
        ((BETTER, SAME, suite("canary", "canary:zorb", **WORSE)), "refused", "canary:zorb.*worse"),
        (
            # No margin forgives a trigger.
            (BETTER, SAME, suite("canary", **{**WORSE, "delta": -0.1, "lower_95": -0.2})),
            "refused",
            "canary: .*worse",
        ),
        (
            (BETTER, SAME, suite("canary", num_items=3, lower_95=-0.63)),
            "inconclusive",
            "canary: .*lower_95 > -0.25 does not hold",
        ),
        (
            # What the champion never passes, nobody can be seen to lose.
            (BETTER, SAME, suite("canary", num_items=40, champion_passed=9, lower_95=-0.07)),
            "inconclusive",
            "canary: .*champion passes 9 of 40",
        ),
        (
            (BETTER, suite("protected", champion_passed=4, lower_95=-0.03), CLEAN),
            "inconclusive",
            "protected: .*champion passes 4 of 100",
        ),
        ((BETTER, CLEAN), "inconclusive", "protected: the scorecard has no such suite"),
        ((BETTER, SAME), "inconclusive", "canary: the scorecard has no such suite"),
        ((), "inconclusive", "target: the scorecard has no such suite"),
        (
            (suite("target", num_items=49, lower_95=0.2), SAME, CLEAN),
            "inconclusive",
            "target: .*49 judged items, at least 50",
        ),
        (
            (BETTER, suite("protected", void=6), CLEAN),
            "inconclusive",
            "protected: .*6 items are void",
        ),
        ((suite("target", lower_95=float("nan")), SAME, CLEAN), "inconclusive", "target"),
        (
            # Harm outranks a lack of evidence elsewhere.
            (suite("target"), suite("protected", **WORSE), CLEAN),
            "refused",
            "^protected",
        ),
    ],
)  # fmt: skip
def test_verdicts(suites: tuple[SuiteResult, ...], verdict: str, says: str) -> None:
    got = judge(card(*suites), parse_gates(LAW))
    assert got.verdict == verdict, got.reason
    assert re.search(says, got.reason), got.reason


def test_one_bad_suite_of_several_is_enough() -> None:
    bad = suite("protected", "protected:arithmetic", **WORSE)
    got = judge(card(BETTER, SAME, bad, CLEAN), parse_gates(LAW))
    assert (got.verdict, got.reason[:20]) == ("refused", "protected:arithmetic")


def test_many_canaries_are_corrected_after_holm() -> None:
    """One p of 0.03 is harm alone, and what chance brings among ten."""
    suspicious = suite("canary", "canary:a", **{**WORSE, "lower_95": -0.2, "mcnemar_p": 0.03})
    rest = [suite("canary", f"canary:{i}") for i in range(9)]
    gates = parse_gates(LAW)
    assert judge(card(BETTER, SAME, suspicious), gates).verdict == "refused"
    assert judge(card(BETTER, SAME, suspicious, *rest), gates).verdict == "pass"


def test_a_gate_that_is_not_required_is_shown_and_decides_nothing() -> None:
    law = LAW + '[[gate]]\nname = "aim"\nkind = "target"\nrequired = false\n'
    law += 'metric = "candidate_rate"\nop = ">="\nthreshold = 0.9\n'
    got = judge(card(BETTER, SAME, CLEAN), parse_gates(law))
    assert got.verdict == "pass"
    assert [(r.gate, r.outcome) for r in got.gates if not r.required] == [("aim", "unmet")]


def test_a_gate_can_name_one_suite() -> None:
    law = parse_gates(LAW.replace('kind = "protected"', 'suite = "public meaning"'))
    assert "public meaning: the scorecard" in judge(card(BETTER, SAME, CLEAN), law).reason
    named = suite("protected", "public meaning")
    assert judge(card(BETTER, named, CLEAN), law).verdict == "pass"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('"lower_95"', '"lowr_95"'), "unknown metric 'lowr_95'; did you mean 'lower_95'"),
        (('metric = "lower_95"', 'metric = "bleu"'), "unknown metric 'bleu'; known: delta"),
        (("threshold", "treshold"), "unknown key 'treshold'; did you mean 'threshold'"),
        (('kind = "target"', 'kind = "held_out"'), "unknown kind 'held_out'; known: target"),
        (('op = ">"', 'op = "=="'), "unknown op '=='"),
        (("margin = 0.05", "margin = 1.5"), "gate.*<= 1.0"),
        (("margin = 0.05", 'margin = "wide"'), "Expected `float"),
        (("margin = 0.05", ""), "gate 'no worse' needs metric, op and threshold, or a margin"),
        (("threshold = 0.0", ""), "gate 'better' needs metric, op and threshold"),
        (("margin = 0.05", 'margin = 0.05\nop = ">"'), "has a margin, so metric"),
        (('kind = "target"', 'kind = "target"\nsuite = "x"'), "either a kind or a suite"),
        (('kind = "target"', ""), "either a kind or a suite"),
        (('name = "no worse"', 'name = "better"'), "the same name"),
        (("gates/1", "gates/9"), "schema"),
        (("[[gate]]", "[gate]"), "TOML"),
        (("op =", "op"), "not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_gate_file_says_what_is_wrong(change: tuple[str, str], says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        parse_gates(LAW.replace(*change, 1) if change[0] != "[[gate]]" else LAW.replace(*change))


@pytest.mark.parametrize(
    "law",
    [
        'schema = "gates/1"\nname = "empty"\ngate = []\n',
        LAW.split("[[gate]]")[0] + '[[gate]]\nname = "a"\nkind = "target"\nmargin = 0.1\n'
        "required = false\n",
    ],
    ids=["no gate", "no required gate"],
)
def test_a_law_that_cannot_refuse_is_no_law(law: str) -> None:
    with pytest.raises(PolicyError, match="nothing could be refused"):
        parse_gates(law)


def test_the_judge_does_not_trust_a_law_made_by_hand() -> None:
    with pytest.raises(PolicyError, match="nothing could be refused"):
        judge(card(BETTER), Gates(schema="gates/1", name="empty", gate=()))


@pytest.mark.parametrize("name", sorted(path.name for path in BUILT_IN.glob("*.toml")))
def test_the_built_in_gates_cover_all_three_kinds(name: str) -> None:
    gates = parse_gates((BUILT_IN / name).read_text(), source=name)
    assert {gate.kind for gate in gates.gate if gate.required} == {"target", "protected", "canary"}


def test_a_likelihood_is_read_with_its_unit() -> None:
    likelier = suite(
        "target", metric="nats_per_token", gained=19, lost=1, num_items=20, delta=0.31, lower_95=0.2
    )
    gates = parse_gates(LAW.replace("min_items = 50", "min_items = 20"))
    verdict = judge(card(likelier, SAME, CLEAN), gates)
    assert verdict.verdict == "pass"
    assert "target: 19 of 20 answers likelier than before (1 less likely" in verdict.reason
    assert "delta +0.310 nats per token" in verdict.reason


@pytest.mark.parametrize(("share", "fine"), [(0, True), (0.3, True), (1.0, False), (-0.1, False)])
def test_what_is_held_out_is_a_share_below_all(share: float, fine: bool) -> None:
    law = f"hold_out_share = {share}\n{LAW}"
    if fine:
        assert parse_gates(law).hold_out_share == share
    else:
        with pytest.raises(PolicyError, match="hold_out_share"):
            parse_gates(law)


def test_imported_work_is_judged_by_what_was_held_out() -> None:
    assert parse_gates((BUILT_IN / "imported.toml").read_text()).hold_out_share > 0
    assert parse_gates((BUILT_IN / "default.toml").read_text()).hold_out_share == 0


def test_the_margin_of_smollm2_stands_in_its_file() -> None:
    gates = parse_gates((BUILT_IN / "smollm2.toml").read_text())
    assert [(g.margin, g.min_items) for g in gates.gate if g.kind == "protected"] == [(0.10, 200)]
