"""bubblewrap without root: Debian's package, unpacked under `.ground/`."""

import os
import shutil
import subprocess
from pathlib import Path

_GROUND = Path(__file__).parents[2] / ".ground"
_PROGRAMS = _GROUND / "bubblewrap" / "usr" / "bin"


def bring_bubblewrap() -> str:
    """Put `bwrap` on this process's PATH, from the registry if need be; else why not, in words."""
    if shutil.which("bwrap") is None and _PROGRAMS.is_dir():
        os.environ["PATH"] += f"{os.pathsep}{_PROGRAMS}"
    if shutil.which("bwrap"):
        return ""
    if missing := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        return f"no bwrap, and no {missing[0]} to fetch it: install the package bubblewrap"
    folder = _GROUND / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    fetched = _run("apt-get", "download", "bubblewrap", folder=folder)
    if fetched.returncode:
        return f"apt-get could not fetch bubblewrap: {fetched.stderr.strip()[-300:]}"
    package = max(folder.glob("bubblewrap_*.deb"), key=os.path.getmtime)
    unpacked = _run("dpkg-deb", "-x", package.name, str(_PROGRAMS.parents[1]), folder=folder)
    if unpacked.returncode:
        return f"dpkg-deb could not unpack bubblewrap: {unpacked.stderr.strip()[-300:]}"
    return bring_bubblewrap()


def _run(*command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)
