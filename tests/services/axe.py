"""axe-core, which finds what keeps people out of a page: one file, from the npm registry."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "4.14.1"
_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
_FILE = Path(__file__).parents[2] / ".ground" / f"axe-{VERSION}.min.js"


def bring_axe() -> tuple[str, str]:
    """The script's text and an empty reason; or nothing, and why not, in words."""
    if _FILE.exists():
        return _checked(_FILE.read_bytes())
    if shutil.which("npm") is None:
        return "", f"no npm to fetch axe-core {VERSION} with: install the package npm"
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["npm", "pack", f"axe-core@{VERSION}", "--silent"],
            cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        if packed.returncode:
            return "", f"npm could not fetch axe-core {VERSION}: {packed.stderr.strip()[-300:]}"
        with tarfile.open(Path(folder) / f"axe-core-{VERSION}.tgz") as archive:
            member = archive.extractfile("package/axe.min.js")
            data = member.read() if member else b""
    text, reason = _checked(data)
    if not reason:
        _FILE.parent.mkdir(exist_ok=True)
        _FILE.write_bytes(data)
    return text, reason


def _checked(data: bytes) -> tuple[str, str]:
    found = hashlib.sha256(data).hexdigest()
    if found != _SHA256:
        return "", f"axe-core {VERSION}: expected sha256 {_SHA256}, got {found}"
    return data.decode(), ""
