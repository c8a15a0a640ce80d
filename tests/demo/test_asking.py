"""The demo asks people on the terminal whether they sign; its stdout stays free for the JSON."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.control.terminal import at_a_terminal

ROOT = Path(__file__).parents[2]
ASK = """
import json, sys
from appliance.demo.story import Options, Story
story = Story.__new__(Story)
story._options = Options(yes={yes}, seed=0, poison="none", shuffle_feedback=False)
signed = [name for name in ("bela", "carl") if story._signs(name, "7")]
open(sys.argv[1], "w").write(json.dumps(signed))
"""


def signed(tmp_path: Path, answers: dict[str, str], *, yes: bool = False) -> tuple[list[str], str]:
    out = tmp_path / "signed.json"
    questions = {
        f"{name}, do you approve the adapter of round 7?": a for name, a in answers.items()
    }
    command = [sys.executable, "-c", ASK.format(yes=yes), str(out)]
    code, shown = at_a_terminal(command, questions, os.environ, ROOT)
    assert code == 0, shown
    return json.loads(out.read_text()), shown


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"bela": "y", "carl": "Yes"}, ["bela", "carl"]),
        ({"bela": "n", "carl": "y"}, ["carl"]),
        ({"bela": "", "carl": "yess"}, []),
    ],
    ids=["both", "one", "nobody says a clear yes"],
)
def test_each_signer_is_asked(tmp_path: Path, answers: dict[str, str], expected: list[str]) -> None:
    names, shown = signed(tmp_path, answers)
    assert names == expected
    assert shown.count("[y/N]") == 2


def test_with_yes_nobody_is_asked(tmp_path: Path) -> None:
    assert signed(tmp_path, {}, yes=True) == (["bela", "carl"], "")


def test_without_a_terminal_nobody_signs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from appliance.demo.story import Options, Story

    monkeypatch.setattr(sys, "stdin", Path(os.devnull).open())  # noqa: SIM115 # closed by the patch's end
    story = Story.__new__(Story)
    story._options = Options(yes=False, seed=0, poison="none", shuffle_feedback=False)
    with sys.stdin:
        assert not story._signs("bela", "7")
    assert capsys.readouterr().out == "", "stdout is for the JSON"
