"""Pausing a program of ours without catching it where others would wait for it.

A process that is stopped inside a transaction keeps everybody out of the database until it goes on,
which may be hours. So a program says where it must not be paused, by a lock on a file that
whoever would pause it has to take first.
"""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = "pause.lock"


@contextmanager
def unpaused(work: Path) -> Iterator[None]:
    """Not be paused while inside. `work` is the folder that this program was started with."""
    with (work / _LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Pause:
    """Pauses one process group, and lets it go on."""

    def __init__(self, group: int, work: Path) -> None:
        """work: the folder that the group's program gives to `unpaused`."""
        self._group = group
        self._file = (work / _LOCK).open("ab")
        self._on = False

    def begin(self) -> None:
        """Stop the group, unless it says that it must not be stopped just now: ask again then."""
        if self._on:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        os.killpg(self._group, signal.SIGSTOP)
        self._on = True

    def end(self) -> None:
        """Let the group go on, if it is stopped."""
        if self._on:
            os.killpg(self._group, signal.SIGCONT)
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._on = False

    def close(self) -> None:
        """Let go of the lock; the group has ended."""
        self._file.close()
