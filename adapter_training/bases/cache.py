"""Where bases that took long to make or to fetch are kept between homes."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$ESPALIER_CACHE``, else ``~/.cache/espalier``."""
    chosen = os.environ.get("ESPALIER_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "espalier"
