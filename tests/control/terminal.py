"""A command at a terminal: what it asks is answered as a person would, and all it shows is kept."""

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_TIMEOUT_S = 60.0


def at_a_terminal(
    command: Sequence[str], answers: Mapping[str, str], environment: Mapping[str, str], cwd: Path
) -> tuple[int, str]:
    """The exit code, and everything that stood on the terminal.

    Args:
        command: started with a pseudo-terminal as its controlling one.
        answers: what is typed, with Enter, once each question has been shown.
        environment: of the command.
        cwd: its folder.
    """
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=dict(environment),
        cwd=cwd,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    shown = ""
    waiting = dict(answers)
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([ours], [], [], 0.1)
            if ready:
                try:
                    shown += os.read(ours, 4096).decode(errors="replace")
                except OSError:  # the child closed the terminal
                    break
            elif child.poll() is not None:
                break
            for question in [q for q in waiting if q in shown]:
                os.write(ours, waiting.pop(question).encode() + b"\n")
        return child.wait(5), shown
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        os.close(ours)
