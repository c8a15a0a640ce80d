"""`python -m appliance.sandbox run`: code on stdin, and what it did, as the console asks for it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.sandbox.whole_program import CODE_MAX_BYTES

pytestmark = pytest.mark.usefixtures("boxes")

ROOT = Path(__file__).parents[2]


def run(code: str | bytes, *words: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "appliance.sandbox", "run", *words],
        input=code.encode() if isinstance(code, str) else code,
        capture_output=True,
        cwd=ROOT,
        check=False,
    )


def did(code: str, *words: str) -> dict[str, Any]:
    ended = run(code, "--json", *words)
    assert ended.returncode == 0, ended.stderr
    shown: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert shown["sandbox"] == "BubblewrapSandbox"
    return shown


def test_what_it_prints_comes_out() -> None:
    shown = did("import sys\nif __name__ == '__main__':\n    print('grün', 6 * 7)\n")
    assert (shown["status"], shown["printed"], shown["detail"]) == ("finished", "grün 42\n", "")
    assert 0 < shown["seconds"] < 5


@pytest.mark.parametrize(
    ("code", "status", "error", "printed"),
    [
        ("print('a')\nprint(1 // 0)", "raised", "ZeroDivisionError", "print(1 // 0)"),
        ("def f(:", "raised", "SyntaxError", "def f(:"),
        ("print('a')\nraise SystemExit(3)", "raised", "SystemExit", "a"),
        ("print('a')\nraise SystemExit", "finished", "", "a"),
        ("print('a')\ninput()", "raised", "EOFError", "a"),
        ("import os\nos._exit(0)", "ended_early", "", ""),
        ("print('x' * 10_000_000)", "flooded", "", "xxx"),
        ("print('\\ud800')", "finished", "", "\\ud800"),
        ('answer = \'"""\'\nprint(answer)', "finished", "", '"""'),
        ("import socket\nsocket.create_connection(('127.0.0.1', 80))", "raised", "", "Error"),
        ("open('/etc/passwd').read()", "raised", "FileNotFoundError", "passwd"),
    ],
)
def test_how_it_ended_is_told(code: str, status: str, error: str, printed: str) -> None:
    shown = did(code)
    assert shown["status"] == status, shown
    assert error in shown["error"]
    assert printed in shown["printed"]
    assert "sys.stdout.reconfigure" not in shown["printed"], "the harness is not theirs to read"


def test_it_is_ended_in_time_and_keeps_what_it_printed() -> None:
    shown = did("print('before')\nwhile True: pass", "--timeout-s", "0.5")
    assert (shown["status"], shown["printed"]) == ("timed_out", "before\n")


def test_the_callers_environment_is_not_in_the_box() -> None:
    os.environ["A_SECRET_OF_OURS"] = "hunter2"
    try:
        assert "hunter2" not in did("import os\nprint(dict(os.environ))")["printed"]
    finally:
        del os.environ["A_SECRET_OF_OURS"]


@pytest.mark.parametrize(
    ("code", "words", "says"),
    [
        (b" \n", (), "no code"),
        (b"\xff", (), "not UTF-8"),
        (b"#" * (CODE_MAX_BYTES + 1), (), "at most"),
        (b"1", ("--timeout-s", "0"), "time limit"),
        (b"1", ("--timeout-s", "nan"), "time limit"),
        (b"1", ("--timeout-s", "61"), "time limit"),
    ],
)
def test_what_cannot_be_run_is_refused(code: bytes, words: tuple[str, ...], says: str) -> None:
    ended = run(code, "--json", *words)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert says in ended.stderr.decode()


def test_without_json_it_is_for_people() -> None:
    out = run("print(1)\nprint(1 // 0)").stdout.decode()
    assert out.startswith("1\n")
    assert "ZeroDivisionError" in out
    assert "raised after" in out
