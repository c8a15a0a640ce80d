"""Starting our other programs by command. They die with whoever started them.

A step's program that outlived its worker would write beside the one that the next worker starts, so
the kernel is asked to end it (PR_SET_PDEATHSIG). It fires when the starting *thread* ends: start
programs from a thread that lives as long as the process.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from appliance.core.errors import EspalierError, UnavailableError
from appliance.core.home import Home
from appliance.core.pausing import Pause

PERSONAL = frozenset({"ESPALIER_AS", "ESPALIER_PASSPHRASE"})
"""What a person signs in with. No process of ours needs it, and all would show it in /proc."""

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05
_libc = ctypes.CDLL(None, use_errno=True)


class ProgramError(EspalierError):
    """A program ended with an error of its own; trying again would end the same way."""


def _die_with(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # A parent that was killed between the fork and this line sends no signal any more.
    if os.getppid() != parent:
        os._exit(1)


def start(
    module: str, *arguments: str, home: Home, log: Path, threads: int = 1
) -> "subprocess.Popen[bytes]":
    """Start ``python -m module arguments`` with stdout and stderr appended to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(home, threads),
            preexec_fn=partial(_die_with, os.getpid()),  # only prctl runs between fork and exec
        )


def run(
    module: str,
    *arguments: str,
    home: Home,
    work: Path,
    name: str,
    threads: int = 1,
    on_wait: Callable[[], None],
    may_run: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """Run a program to its end and return its last line of JSON.

    `on_wait` is called about every 50 ms; an error from it (a lost lease, a cancel) kills the
    program. Then `may_run` is asked: while it says no, the program is paused.

    Raises:
        UnavailableError: it was killed, or says that a part did not answer: try again.
        ProgramError: it ended with another error; the message is its own last lines.
    """
    out, err = work / f"{name}.out", work / f"{name}.err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment(home, threads),
            process_group=0,
            preexec_fn=partial(_die_with, os.getpid()),  # only prctl runs between fork and exec
        )
    pause = Pause(child.pid, work)
    try:
        while (code := _wait(child)) is None:
            on_wait()
            if may_run():
                pause.end()
            else:
                pause.begin()
    finally:
        if child.poll() is None:
            # Not a request to end, so it reaches a paused program too.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        pause.close()
    if code == 0:
        return _last_json(out.read_text(errors="replace"), name)
    tail = err.read_text(errors="replace").strip()[-2000:] or f"{name} said nothing"
    if code < 0 or code == UnavailableError.exit_code:
        raise UnavailableError(f"{name} ended with {code}: {tail}")
    raise ProgramError(tail)


def run_now(module: str, *arguments: str, home: Home) -> dict[str, Any]:
    """Run a short program and return its last line of JSON.

    Raises:
        ProgramError: it ended with an error; the message is its own.
    """
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(home, 1),
        check=False,
    )
    if ended.returncode != 0:
        raise ProgramError(ended.stderr.decode(errors="replace").strip()[-2000:])
    return _last_json(ended.stdout.decode(errors="replace"), module)


def environment(home: Home, threads: int) -> dict[str, str]:
    """The environment of our programs: this home, no hub, a fixed number of threads."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    fixed = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
    ours = {name: value for name, value in os.environ.items() if name not in PERSONAL}
    return {**ours, "ESPALIER_HOME": str(home.root), **offline, **fixed}


def _wait(child: "subprocess.Popen[bytes]") -> int | None:
    try:
        return child.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return None


def _last_json(text: str, name: str) -> dict[str, Any]:
    lines = text.strip().splitlines()
    try:
        value = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise ProgramError(f"{name} did not end with a line of JSON") from error
    if not isinstance(value, dict):
        raise ProgramError(f"{name} ended with {type(value).__name__}, not an object")
    return value
