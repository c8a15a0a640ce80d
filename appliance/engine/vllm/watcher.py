"""``python -m appliance.engine.vllm.watcher PARENT COMMAND…``: a replica that cannot outlive us.

It runs the command in this process group and ends the group when the command ends, when it is
asked to, or when PARENT is gone, killed or not: a GPU that a forgotten server holds serves nobody.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0
_LOOK_S = 0.2


def main(words: list[str]) -> int:
    """Run the command; its exit code."""
    parent, command = int(words[0]), words[1:]
    deadline = float("inf")

    def end(_: int, __: FrameType | None) -> None:
        nonlocal deadline
        deadline = min(deadline, time.monotonic() + _GRACE_S)
        child.terminate()

    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, end)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # A parent that was killed before the line above sends no signal any more.
    if os.getppid() != parent:
        child.terminate()
    while (code := _wait(child)) is None and time.monotonic() < deadline:
        pass
    # What else vLLM has started may outlive its API server, and would hold the GPU.
    os.killpg(0, signal.SIGKILL)
    return code or 0


def _wait(child: "subprocess.Popen[bytes]") -> int | None:
    try:
        return child.wait(_LOOK_S)
    except subprocess.TimeoutExpired:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
