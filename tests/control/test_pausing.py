"""A program of ours that is paused: it stands still, holds nobody up, and ends like any other."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from appliance.control import programs
from appliance.core.home import Home
from tests.adapter_training.conftest import (  # noqa: F401 # registers the fixtures
    DatasetMaker,
    base,
    base_folder,
    maker,
)
from tests.control.conftest import ROOT

_PROGRAM = "tests.control.governed_program"


def counted(work: Path) -> int:
    try:
        return (work / "count").stat().st_size
    except FileNotFoundError:
        return 0


def run(
    home: Home, work: Path, on_wait: Callable[[], None], may_run: Callable[[], bool],
    number: int = 300, held_s: float = 0.0,
) -> dict[str, object]:  # fmt: skip
    return programs.run(
        _PROGRAM, str(work), str(number), str(held_s),
        home=home, work=work, name="count", on_wait=on_wait, may_run=may_run,
    )  # fmt: skip


class Ended(Exception):
    """What a cancelled round raises from `on_wait`."""


def test_a_paused_program_stands_still_and_then_ends_as_if_nothing_had_been(
    home: Home, tmp_path: Path
) -> None:
    seen: list[int] = []

    def may_run() -> bool:
        if not counted(tmp_path) or len(seen) == 10:
            return True
        seen.append(counted(tmp_path))
        return False

    made = run(home, tmp_path, lambda: None, may_run)
    # The first no stops it; since the second nothing moves.
    assert len(set(seen[1:])) == 1
    assert made == {"count": 300}


def test_a_cancel_ends_a_paused_program_at_once(home: Home, tmp_path: Path) -> None:
    seen: list[str | None] = []
    pids: list[int] = []

    def on_wait() -> None:
        if counted(tmp_path):
            pids[:] = pids or children()
            seen.append(state_of(pids[0]))
        if len(seen) == 5:
            raise Ended

    with pytest.raises(Ended):
        run(home, tmp_path, on_wait, lambda: not counted(tmp_path), number=1_000_000)
    assert seen[-3:] == ["T"] * 3
    assert state_of(pids[0]) is None


def test_a_program_is_not_paused_where_others_would_wait_for_it(home: Home, tmp_path: Path) -> None:
    seen: list[int] = []

    def may_run() -> bool:
        if counted(tmp_path) and len(seen) < 30:
            seen.append(counted(tmp_path))
            return False
        return True

    run(home, tmp_path, lambda: None, may_run, number=2000, held_s=0.6)
    moved = [later > earlier for earlier, later in pairwise(seen)]
    assert all(moved[:5]), "it went on while it held what others wait for"
    assert not any(moved[-5:]), "and stood still once it let go"


_WORKER = """
import sys
from pathlib import Path
from appliance.control import programs
from appliance.core.home import Home
work = Path(sys.argv[1])
programs.run(
    "tests.control.governed_program", str(work), "1000000", "0", home=Home(work), work=work,
    name="count", on_wait=lambda: None, may_run=lambda: not (work / "count").exists(),
)
"""


def test_a_paused_program_dies_with_its_worker(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", _WORKER, str(tmp_path)], cwd=ROOT)
    try:
        (program,) = soon(lambda: children(worker.pid))
        soon(lambda: state_of(program) == "T")
        worker.send_signal(signal.SIGKILL)
        worker.wait(10)
        soon(lambda: state_of(program) in (None, "Z"))
    finally:
        worker.kill()
        worker.wait(10)


def soon(what: Callable[[], object]) -> object:  # type: ignore[misc]
    deadline = time.monotonic() + 30
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def children(parent: int | None = None) -> list[int]:
    parent = parent or os.getpid()
    pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    return [pid for pid, line in lines.items() if _PROGRAM.encode() in line]


def state_of(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def test_an_adapter_is_the_same_bytes_however_often_its_training_was_paused(
    home: Home,
    maker: DatasetMaker,  # noqa: F811
) -> None:
    dataset = maker.seal([maker.example(i) for i in range(40)])
    recipe = home.root / "recipe.toml"
    recipe.write_text("batch_tokens = 700\nepochs = 12\nlearning_rate = 0.01\nrank = 4\n")

    def trained(name: str, may_run: Callable[[], bool]) -> dict[str, object]:
        work = home.rounds / name
        work.mkdir()
        return programs.run(
            "adapter_training", "train", "--home", str(home.root), "--json", "--dataset", dataset,
            "--recipe", str(recipe), "--work", str(work),
            home=home, work=work, name="train", on_wait=lambda: None, may_run=may_run,
        )  # fmt: skip

    pauses = 0

    def every_second_tick() -> bool:
        nonlocal pauses
        if not (home.rounds / "paused" / "curve.jsonl").exists():
            return True
        pauses += 1
        return pauses % 2 == 0

    paused, whole = trained("paused", every_second_tick), trained("whole", lambda: True)
    assert pauses > 10
    assert paused["adapter"] == whole["adapter"]
    curves = [(home.rounds / name / "curve.jsonl").read_bytes() for name in ("paused", "whole")]
    assert curves[0] == curves[1]
