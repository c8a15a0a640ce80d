"""The demo asks people on the terminal whether they sign; its stdout stays free for the JSON."""

import io
import json
import os
import signal
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from appliance.demo.__main__ import _leave
from appliance.demo.house import House
from appliance.demo.memory import MemoryMeter
from appliance.demo.story import Options, Story
from appliance.demo.voice import Voice
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
    monkeypatch.setattr(sys, "stdin", Path(os.devnull).open())  # noqa: SIM115 # closed by the patch's end
    story = Story.__new__(Story)
    story._options = Options(yes=False, seed=0, poison="none", shuffle_feedback=False)
    with sys.stdin:
        assert not story._signs("bela", "7")
    assert capsys.readouterr().out == "", "stdout is for the JSON"


@pytest.mark.parametrize(("answers", "rejects"), [(("n",), "bela"), (("y", "n"), "carl")])
def test_whoever_says_no_is_the_one_who_rejects(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: tuple[str, ...], rejects: str
) -> None:
    asked: list[tuple[tuple[str, ...], str | None]] = []

    class FakeHouse(House):
        def run(self, *words: str, person: str | None = None) -> None:
            pass

        def ask(self, *words: str, person: str | None = None, failed: int = 0) -> Any:
            asked.append((words[:2], person))
            return {"verdict": "rejected", "state": "rejected"}

    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{a}\n" for a in answers)))
    with MemoryMeter() as memory:
        story = Story.__new__(Story)
        story._house = FakeHouse(tmp_path)
        story._options = Options(yes=False, seed=0, poison="none", shuffle_feedback=False)
        story._voice = Voice(memory)
        story._ask_for_approval({"round": 4, "adapter": "sha256:a"})
    assert asked[0] == (("reject", "4"), rejects)
    assert not any(words[0] == "approve" for words, _ in asked)


def test_a_second_interrupt_does_not_leave_it_half_taken_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path / "demo" / "home")
    house.home.mkdir(parents=True)
    told: list[str] = []

    def ask(_: House, *words: str, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        told.extend(words)

    monkeypatch.setattr(House, "ask", ask)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _leave(Namespace(keep=False), house, tmp_path / "demo")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert told == ["down"]
    assert not (tmp_path / "demo").exists()
