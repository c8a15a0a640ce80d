"""Where a figure was measured: versions, cores, load. Every benchmark prints it."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any


def about(*distributions: str) -> dict[str, Any]:
    """The machine and its load now, Python, and the version of each distribution named."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in distributions},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
