"""The code of an answer, run in the sandbox."""

import threading
import time

import pytest

from appliance.control.acting import code as running
from appliance.control.steps import Ground
from appliance.core.errors import UnavailableError, UsageError
from tests.control.browser import Browser
from tests.control.talking import BASE, CARL, cards, fields
from tests.serving.conftest import ALIAS


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("print(1)", "print(1)"),
        ("Look:\n```python\nprint(1)\n```\nand\n```\nprint(2)\n```\ndone", "print(2)\n"),
        ("~~~\nprint(1)\n~~~", "print(1)\n"),
        ("```py\nprint('```')\n```", "print('```')\n"),
        ("```python\nprint(1)", "print(1)"),
        ("````\n```\ninside\n```\n````", "```\ninside\n```\n"),
        ("```\n```", ""),
        ("", ""),
    ],
)
def test_the_code_of_an_answer_is_its_last_block(answer: str, code: str) -> None:
    assert running.code_of(answer) == code


@pytest.mark.usefixtures("boxes")
def test_code_runs_in_the_box_and_shows_what_it_did(ground: Ground) -> None:
    ran = running.run_code(ground, CARL, "print('hi')\nopen('/etc/passwd')")
    assert (ran.status, ran.error) == ("raised", "FileNotFoundError")
    assert ran.printed.startswith("hi\n")
    assert ran.sandbox == "BubblewrapSandbox"
    for nothing in ("", " \n"):
        with pytest.raises(UsageError):
            running.run_code(ground, CARL, nothing)
    with pytest.raises(UsageError, match="MiB"):
        running.run_code(ground, CARL, "#" * ((1 << 20) + 1))
    assert running.run_code(ground, CARL, "print('\ud800')").status == "finished"


@pytest.mark.usefixtures("boxes")
def test_two_programs_at_once_and_no_more(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TIMEOUT_S", 1.0)
    ended: list[str] = []
    busy = "while True: pass"
    threads = [
        threading.Thread(target=lambda: ended.append(running.run_code(ground, CARL, busy).status))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    while running._room._value:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(UnavailableError, match="2 programs run already"):
        running.run_code(ground, CARL, "print(1)")
    for thread in threads:
        thread.join()
    assert ended == ["timed_out", "timed_out"]
    assert running.run_code(ground, CARL, "print(1)").status == "finished"


@pytest.mark.usefixtures("boxes")
def test_code_of_an_answer_runs_in_the_sandbox(olga: Browser) -> None:
    state = {
        **fields("q", BASE), "answered": [BASE, ALIAS], "side": "1",
        "answer": ["none", "Look:\n```python\nprint('<b>' + str(6 * 7))\n```"],
        "asked": '{"messages": []}',
    }  # fmt: skip
    whole = olga.post("/talk/run", state)
    first, second = cards(whole.text)
    assert "&lt;b&gt;42" in second
    assert "&lt;b&gt;42" not in first
    assert "none" in first
    part = olga.post("/talk/run", state, **{"x-part": "1"})
    assert "&lt;b&gt;42" in part.text
    assert "<html" not in part.text
    assert olga.api("POST", "/talk/run", {"code": "print(1)"}).json()["printed"] == "1\n"
    assert olga.post("/talk/run", {**state, "side": "7"}).status_code == 400
