"""What a person gets wrong at the command line, and what it says."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from appliance.control import own_keys, show
from appliance.core.database import Database
from appliance.core.home import Home
from serving.keys import list_keys, revoke_key
from tests.control.conftest import SUITE, Running

HEAD = '{"suite": "broken", "kind": "target"}\n'
ITEM = (
    '{"item_id": "a", "family": "f", "messages": [{"role": "user", "content": "q"}], '
    '"max_tokens": 4, "check": %s}\n'
)
EXACT = ITEM % '{"kind": "exact", "expected": "a"}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + EXACT + EXACT, "stands there twice"),
        (HEAD + ITEM % '{"kind": "nosuch"}', "line 2: not a check"),
        (
            HEAD
            + ITEM % '{"kind": "program", "program": "def run(", "cases": [1], "expected": [1]}',
            "not Python",
        ),
        (
            HEAD + ITEM % '{"kind": "program", "program": "x", "cases": [1], "expected": [1, 2]}',
            "one expected value per case",
        ),
        (HEAD, "no items"),
    ],
    ids=["an item twice", "an unknown check", "no Python", "a case too few", "no items"],
)
def test_a_suite_that_evaluation_would_not_take_is_no_law(
    running: Running, text: str, says: str
) -> None:
    path = running.write("broken.jsonl", text)
    ended = running.run("law", "set", "suite", path, person="olga")
    assert ended.code == 2
    assert says in ended.message
    assert "next: " in ended.message
    names = [entry["name"] for entry in running.run("law", "show", "--json").json]
    assert "broken" not in names


def test_an_articles_name_may_hold_spaces_and_two_suites_may_not_share_theirs(
    running: Running,
) -> None:
    path = running.write("räte suite.jsonl", SUITE.replace("target", "räte", 1))
    assert running.run("law", "set", "suite", path, person="olga").code == 0
    again = running.run("law", "set", "suite", path, "--name", "other", person="olga")
    assert (again.code, "is in force as article" in again.message) == (2, True)
    assert running.run("law", "repeal", "suite", "räte suite", person="olga").code == 0
    slashed = running.run("law", "set", "suite", path, "--name", "a/b?c", person="olga")
    assert (slashed.code, "None" in slashed.message) == (2, False)


def test_a_home_that_is_a_file_or_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from adapter_training.command import main

    (tmp_path / "file").write_text("")
    for home, says in ((tmp_path / "file", "not a folder"), (Path("/proc/x"), "cannot keep")):
        assert main(["base", "make-tiny", "--home", str(home)]) == 2
        said = capsys.readouterr().err
        assert says in said
        assert "next: " in said


def test_up_hands_out_no_revoked_key(home: Home) -> None:
    database = Database.open(home.database)
    first = own_keys.agent_key(home)
    assert own_keys.agent_key(home) == first
    revoke_key(database, list_keys(database)[0].key_id, actor="ada")
    second = own_keys.agent_key(home)
    assert second != first
    assert own_keys.agent_key(home) == second
    database.close()


def test_the_demo_asks_nobody_who_cannot_answer() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "appliance.demo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "--yes" in ended.stderr


def decision(name: str, said: str) -> dict[str, str]:
    return {"approver": name, "decision": said}


@pytest.mark.parametrize(
    ("decisions", "says"),
    [
        ([decision("bela", "approve")], "bela approved round 3, 1 of 2 needed\n"),
        (
            [decision("bela", "approve"), decision("carl", "approve")],
            "carl approved round 3, 2 of 2 needed: it is being released\n",
        ),
        ([decision("bela", "approve"), decision("carl", "reject")], "carl rejected round 3\n"),
    ],
)
def test_a_decision_says_what_it_still_takes(
    capsys: pytest.CaptureFixture[str], decisions: list[dict[str, str]], says: str
) -> None:
    signed = sum(one["decision"] == "approve" for one in decisions)
    show.decided({"round": 3, "quorum": 2, "signed": signed, "decisions": decisions})
    assert capsys.readouterr().out == says


def test_a_narrow_terminal_still_shows_whole_names_and_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite: dict[str, Any] = {
        "suite": "canary:problem.", "kind": "canary", "num_items": 40, "metric": "pass",
        "champion_passed": 20, "candidate_passed": 33, "delta": 0.325, "lower_95": 0.129,
        "upper_95": 0.495, "smallest_effect": 0.258,
    }  # fmt: skip
    shown = io.StringIO()
    monkeypatch.setattr(show, "_console", Console(width=80, file=shown))
    show._console.print(show._suites([suite], {}))
    assert "canary:problem." in shown.getvalue()
    assert "[+0.129, +0.495]" in shown.getvalue()


def test_the_log_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    entry = {
        "sequence": 7, "at": 1.0, "actor": "bela", "act": "alias.rollback", "subject": "x",
        "detail": {"adapter": "sha256:" + "0" * 64, "comment": "tickets got worse"},
    }  # fmt: skip
    show.audit([entry])
    said = capsys.readouterr().out
    assert "tickets got worse" in said
    assert "the chain is intact" in said
