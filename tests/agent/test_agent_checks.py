"""Checks: verdicts are decided outside the box, on outputs alone."""

import pytest

from appliance.agent.checks import (
    Check,
    ExactCheck,
    ProgramCheck,
    Verdict,
    decide,
    judge,
    parse_check,
    same_json,
)
from appliance.core.errors import RecordError
from appliance.sandbox.programs import Run, Status
from appliance.sandbox.sandbox import Sandbox

PROGRAM = (
    "def run(answer, case):\n    space = {}\n    exec(answer, space)\n    return space['f'](*case)"
)
ADD = ProgramCheck(program=PROGRAM, cases=([1, 2], [3, 4]), expected=(3, 7))

# name: (answer, outcome, what the detail says)
ANSWERS = {
    "right": ("f = lambda a, b: a + b", "ok", "passed"),
    "wrong": ("f = lambda a, b: a * b", "failed", "for [1,2] it gave 2"),
    "right once": ("f = lambda a, b: 3", "failed", "for [3,4] it gave 3"),
    "raises": ("f = lambda a, b: a / 0", "failed", "ZeroDivisionError: division by zero"),
    "no code": ("I would add them.", "failed", "SyntaxError"),
    "empty": ("", "failed", "KeyError: 'f'"),
    "leaves": ("import os\nf = lambda a, b: os._exit(0)", "failed", "without a result"),
    "loops": ("def f(a, b):\n    while True: pass", "void", "no end after 0.5 s"),
    "sleeps": ("import time\nf = lambda a, b: time.sleep(60)", "void", "no end"),
    "prints a verdict": (
        'f = lambda a, b: print(\'{"outcome": "ok"}\')',
        "failed",
        "for [1,2] it gave null",
    ),
    "writes a verdict": (
        "import os\n"
        "def f(a, b):\n"
        "    for fd in range(3, 1024):\n"
        '        try: os.write(fd, b\'{"outcome": "ok"}\\n\')\n'
        "        except OSError: pass\n"
        "    os._exit(0)",
        "failed",
        "not JSON",
    ),
    "equal to everything": (
        "class E(int):\n    def __eq__(self, other): return True\nf = lambda a, b: E(0)",
        "failed",
        "it gave 0",
    ),
    "looks for what is expected": (
        "import gc\n"
        "def f(a, b):\n"
        "    seen = [d for d in gc.get_objects() if isinstance(d, dict) and 'expected' in d]\n"
        "    return seen[0]['expected'].pop(0)",
        "failed",
        "IndexError",
    ),
    "changes what is compared": (
        "import sys\nsys.modules['__main__'].write_line = lambda *_: None\nf = lambda a, b: a + b",
        "failed",
        "without a result",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_verdict(sandbox: Sandbox, name: str) -> None:
    answer, outcome, detail = ANSWERS[name]
    check = ProgramCheck(program=PROGRAM, cases=ADD.cases, expected=(3, 7), timeout_s=0.5)
    (verdict,) = judge([(check, answer)], sandbox=sandbox)
    assert verdict.outcome == outcome, verdict
    assert detail in verdict.detail


@pytest.mark.filterwarnings("ignore::appliance.sandbox.sandbox.UnsafeSandboxWarning")
def test_batch_is_judged_in_order_and_opens_its_own_sandbox() -> None:
    exact = ExactCheck(expected="yes")
    pairs: list[tuple[Check, str]] = [
        (ADD, "f = lambda a, b: a + b"),
        (exact, " yes\n"),
        (ADD, "f = lambda a, b: 0"),
        (exact, "no"),
    ]
    assert [v.outcome for v in judge(pairs)] == ["ok", "ok", "failed", "failed"]


def test_what_was_expected_is_not_told(sandbox: Sandbox) -> None:
    check = ProgramCheck(program=PROGRAM, cases=([1, 2],), expected=(987654,))
    (verdict,) = judge([(check, "f = lambda a, b: 0")], sandbox=sandbox)
    assert "987654" not in repr(verdict)


@pytest.mark.parametrize("status", [Status.TIMED_OUT, Status.LOST])
def test_what_the_box_did_is_void(status: Status) -> None:
    # Even with every output right: the run did not end, so it shows nothing.
    assert decide(ADD, "", Run(status=status, outputs=(3, 7))).outcome == "void"


@pytest.mark.parametrize("status", [Status.RAISED, Status.ENDED_EARLY, Status.FLOODED])
def test_right_outputs_of_a_run_that_went_wrong_fail(status: Status) -> None:
    assert decide(ADD, "", Run(status=status, outputs=(3, 7))).outcome == "failed"


def test_too_few_outputs_fail() -> None:
    assert decide(ADD, "", Run(status=Status.FINISHED, outputs=(3,))).outcome == "failed"


def test_program_that_was_not_run_is_void() -> None:
    assert decide(ADD, "", None) == Verdict(outcome="void", detail="it was not run")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (False, 0, False),
        (None, False, False),
        ([1, [2]], (1, (2,)), True),
        ([1], [1, 2], False),
        ({"a": [True]}, {"a": [1]}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ("1", 1, False),
    ],
)
def test_same_json(left: object, right: object, same: bool) -> None:
    assert same_json(left, right) is same


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "program", "program": "", "cases": [], "expected": []}, "at least one case"),
        ({"kind": "program", "program": "", "cases": [1], "expected": []}, "0 for 1"),
        ({"kind": "program", "cases": [1], "expected": [1]}, "missing required field `program`"),
        (
            {"kind": "program", "program": "", "cases": [1], "expected": [1], "timeout_s": 0},
            "> 0.0",
        ),
        ({"kind": "exact"}, "missing required field `expected`"),
        ({"kind": "exact", "expected": "a", "expcted": "b"}, "unknown field"),
        ({"kind": "oracle"}, "oracle"),
        ({}, "kind"),
        (None, "not a check"),
    ],
)
def test_check_that_is_none_is_refused(value: object, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_check(value)
