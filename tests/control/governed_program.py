"""A program to pause: counts to a number, a byte of ``WORK/count`` at a time.

``python -m tests.control.governed_program WORK NUMBER HELD_S``: for the first HELD_S seconds it
must not be paused. Last line: how far it counted.
"""

import json
import sys
import time
from io import FileIO
from pathlib import Path

from appliance.core.pausing import unpaused


def main() -> None:
    """Count."""
    work, number, held_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    until = time.monotonic() + held_s
    with (work / "count").open("ab", buffering=0) as file:
        with unpaused(work):
            while time.monotonic() < until:
                _count(file)
        while file.tell() < number:
            _count(file)
        print(json.dumps({"count": file.tell()}))


def _count(file: FileIO) -> None:
    file.write(b".")
    time.sleep(0.001)


if __name__ == "__main__":
    main()
