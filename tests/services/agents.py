"""A coding agent that others wrote, in an environment of its own under `.ground/agents/`."""

import os
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_FOLDER = _HERE.parents[1] / ".ground" / "agents" / "mini-swe-agent"
_PINNED = _HERE / "mini_swe_agent.txt"


def bring_mini_swe_agent() -> tuple[Path, str]:
    """Its program and an empty reason; or, where it cannot be had, why not, in words.

    What is installed is exactly what mini_swe_agent.txt names, each file by its hash.
    """
    program = _FOLDER / "bin" / "mini"
    made = _FOLDER / "made"
    wanted = _PINNED.read_text()
    if made.exists() and made.read_text() == wanted:
        return program, ""
    uv = Path(sys.executable).with_name("uv")
    python = str(_FOLDER / "bin" / "python")
    for command in (
        ["venv", "--clear", "-q", str(_FOLDER)],
        ["pip", "install", "-q", "--python", python, "--require-hashes", "-r", str(_PINNED)],
    ):
        done = subprocess.run([str(uv), *command], capture_output=True, text=True)
        if done.returncode:
            return program, f"uv could not install mini-swe-agent: {done.stderr.strip()[-300:]}"
    made.write_text(wanted)
    return program, ""


def agent_environment(folder: Path, url: str, key: str) -> dict[str, str]:
    """What an agent's developer sets, and what keeps the program from calling anybody else.

    The gateway is `OPENAI_BASE_URL` and its key; all else is mini-swe-agent's and litellm's own
    way to be quiet: no first-run questions, no price list fetched from elsewhere.
    """
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": key,
        "MSWEA_CONFIGURED": "true",
        "MSWEA_COST_TRACKING": "ignore_errors",
        "MSWEA_GLOBAL_CONFIG_DIR": str(folder / "config"),
        "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
    }
