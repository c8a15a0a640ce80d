"""The tiny base, made once on this machine by its own recipe: some minutes of one core."""

import os
import subprocess
import sys
from pathlib import Path

_HOME = Path(__file__).parents[2] / ".ground" / "tiny"


def bring_tiny() -> Path:
    """A home that holds the tiny base and nothing else."""
    if not (_HOME / "made").exists():
        _HOME.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "appliance.control.command", "base", "make-tiny", "--json"],
            env={**os.environ, "ESPALIER_HOME": str(_HOME), "OMP_NUM_THREADS": "2"},
            check=True,
            capture_output=True,
        )
        (_HOME / "made").touch()
    return _HOME
