"""The system's Chromium, or Debian's package of it; nothing from elsewhere."""

import os
import shutil
import subprocess

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive"}


def bring_chromium() -> str:
    """Have a Chromium on PATH, from Debian's mirror if need be; else why not, in words."""
    if find_chromium():
        return ""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return "no Chromium on PATH, and no root with apt-get: install the package chromium"
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        done = subprocess.run(
            ["apt-get", "-q", *command],
            env={**os.environ, **_ENVIRONMENT},
            capture_output=True,
            text=True,
        )
    if not find_chromium():
        return f"apt-get could not install chromium: {done.stderr.strip()[-300:]}"
    return ""


def find_chromium() -> str:
    """Where it is; empty where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), "")
