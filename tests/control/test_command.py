"""The `espalier` command: what it says of itself, and of a home that is not there."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from appliance.control import command, people
from appliance.control.command import PROGRAMS, main
from appliance.core.database import Database
from appliance.core.home import Home


def test_an_unknown_command_is_told_all_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["stauts"])
    said = capsys.readouterr().err
    assert "invalid choice: 'stauts'" in said
    for name in ("status", "up", *PROGRAMS):
        assert f"'{name}'" in said


def test_help_lists_the_programs_among_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    for name, (_, _, what) in PROGRAMS.items():
        assert f"    {name}" in said
        assert what.split(":")[0] in said


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_programs_help_names_the_command_that_people_type(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, verb, _ = PROGRAMS[name]
    program = import_module(f"{module}.__main__" if name == "demo" else f"{module}.command")
    monkeypatch.setattr(sys, "argv", [module, *verb, "--help"])
    with pytest.raises(SystemExit, match="0"):
        program.main()
    assert capsys.readouterr().out.startswith(f"usage: espalier {name} [-h]")


@pytest.mark.parametrize("words", [["base", "add"], ["key", "pause"], ["adapter", "verify"]])
def test_so_does_the_help_of_what_a_program_does(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    program = import_module(f"{PROGRAMS[words[0]][0]}.command")
    with pytest.raises(SystemExit, match="0"):
        program.main([*words, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: espalier {' '.join(words)} [-h]")


@pytest.mark.parametrize(
    "words",
    [
        "up", "down", "status", "config show", "user list", "user add ada --role admin",
        "law show", "round run", "rounds", "review 1", "approve 1", "cancel 1 --reason r",
        "release 1", "kill --reason r", "log", "base list", "key list", "key add",
        "key usage", "adapter verify DIR", "import FILE", "tail --once",
        "curate --recipe FILE", "evaluate base --suite SUITE",
    ],
)  # fmt: skip
def test_a_mistyped_home_is_refused_and_not_made(
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "_become", lambda module, verb, rest: _run(module, [*verb, *rest]))
    monkeypatch.setenv("ESPALIER_HOME", "unset by --home")
    home = tmp_path / "hoem"
    assert main(["--home", str(home), *words.split()]) == 2
    said = capsys.readouterr().err
    assert f"no Espalier home at {home}\n  next: " in said
    assert list(tmp_path.iterdir()) == []


def _run(module: str, words: list[str]) -> int:
    code: int = import_module(f"{module}.command").main(words)
    return code


def test_a_wrong_role_is_told_before_anybody_is_asked_for_a_passphrase(
    home: Home,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    people.add(
        database, name="ada", role="admin", passphrase="correct horse", actor="os:ada", at=1.0
    )
    monkeypatch.setenv("ESPALIER_HOME", str(home.root))
    assert main(["user", "add", "bo", "--role", "boss"]) == 2
    said = capsys.readouterr().err
    assert "role must be one of viewer, operator, approver, admin, got 'boss'" in said
    assert "next: viewer reads, operator makes rounds, approver signs" in said


@pytest.mark.parametrize("digest", ["BAD", "", "sha256:12"])
def test_a_digest_that_is_none_is_told_where_the_right_one_is(
    home: Home, tmp_path: Path, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["adapter", "verify", str(tmp_path), "--home", str(home.root), "--digest", digest]
    assert _run("serving", words) == 2
    said = capsys.readouterr().err
    assert f"--digest: expected sha256: and 64 hex digits, got {digest!r}" in said
    assert "next: without --digest, espalier adapter verify prints" in said
