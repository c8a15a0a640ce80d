"""Passphrases asked for on a terminal: never shown, never read from anywhere else."""

import pytest

from appliance.control import programs
from appliance.core.home import Home
from tests.control.conftest import COMMAND, PASSPHRASE, ROOT, Running
from tests.control.terminal import at_a_terminal


def ask(running: Running, *words: str, answers: dict[str, str]) -> tuple[int, str]:
    return at_a_terminal([*COMMAND, *words], answers, running.environment(), ROOT)


@pytest.mark.parametrize(
    ("passphrase", "code", "says"),
    [
        (PASSPHRASE, 2, "no round 99"),
        ("not her passphrase", 5, "the name or the passphrase is wrong"),
    ],
)
def test_an_approver_is_asked_for_her_passphrase(
    running: Running, passphrase: str, code: int, says: str
) -> None:
    answers = {"passphrase of bela: ": passphrase}
    ended, shown = ask(running, "approve", "99", "--as", "bela", answers=answers)
    assert (ended, says in shown) == (code, True), shown
    assert passphrase not in shown


@pytest.mark.parametrize(("again", "code"), [(PASSPHRASE, 0), ("something else entirely", 2)])
def test_a_new_passphrase_is_asked_for_twice(running: Running, again: str, code: int) -> None:
    answers = {
        "passphrase of ada: ": PASSPHRASE,
        "a passphrase for carl: ": PASSPHRASE,
        "again: ": again,
    }
    words = ("user", "add", "carl", "--role", "viewer", "--as", "ada")
    if code == 0:
        words = tuple(word.replace("carl", "cora") for word in words)
        answers["a passphrase for cora: "] = answers.pop("a passphrase for carl: ")
    ended, shown = ask(running, *words, answers=answers)
    assert ended == code, shown
    assert ("the two passphrases differ" in shown) == bool(code)


def test_without_a_terminal_nothing_is_asked(running: Running) -> None:
    command = running.run("approve", "99", "--as", "bela")
    if "passphrase of bela" in command.message:
        pytest.skip("this test run has a terminal of its own")
    assert command.code == 2
    assert "no terminal" in command.message
    assert "--passphrase-file" in command.message


def test_no_process_of_ours_inherits_a_passphrase(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment can be read in /proc for as long as its process lives."""
    monkeypatch.setenv("ESPALIER_AS", "ada")
    monkeypatch.setenv("ESPALIER_PASSPHRASE", PASSPHRASE)
    assert not programs.PERSONAL & programs.environment(home, 1).keys()
