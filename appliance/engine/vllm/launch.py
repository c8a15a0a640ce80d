"""The command and the environment of a vLLM server that does what the Engine port promises.

What is fixed here is fixed for a reason, told beside it; hardware is the operator's
(`[vllm] arguments`). No I/O.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.core.errors import SettingsError
from appliance.core.settings import Engine as EngineSettings
from appliance.core.settings import Vllm
from appliance.engine.bases import Base

BASE_NAME = "base"
"""What a replica calls the model without an adapter."""

_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM 0.32 has slots for."""

_FIXED = (
    # The probability that a token was drawn with, not the one before temperature and top_p.
    "--logprobs-mode", "processed_logprobs",
    # What the base's generation_config.json asks for must not change what a request asks for.
    "--generation-config", "vllm",
    # Batch-class work waits for people's.
    "--scheduling-policy", "priority",
    # The grammar library of the embedded engine too, so that a schema means the same on both.
    "--structured-outputs-config.backend", "guidance",
    "--structured-outputs-config.disable_any_whitespace", "true",
    "--enable-prompt-tokens-details",
    "--disable-uvicorn-access-log",
    "--enable-lora",
    # The head is no target of ours; wrapped as one, it ends the whole engine where prompt logprobs
    # are asked for (vLLM 0.32 on a CPU).
    "--lora-target-modules", *_MODULES,
)  # fmt: skip

# Settings of somebody's shell that would change what is served, or send something out.
_DROPPED = ("VLLM_", "HF_", "TRANSFORMERS_", "PYTHON", "ESPALIER_")


@dataclass(frozen=True, slots=True)
class Launch:
    """One replica: what to run, with which environment on top of PATH and the like."""

    command: list[str]
    environment: dict[str, str]
    socket: Path
    plain: Path | None = None
    """An adapter under which the base answers; None where it answers by itself. See plain.py."""


def launch(
    base: Base,
    engine: EngineSettings,
    vllm: Vllm,
    *,
    python: str,
    socket: Path,
    cache: Path,
    plain: Path | None = None,
) -> Launch:
    """The launch of one replica.

    Args:
        python: the interpreter of vLLM's environment.
        socket: where the replica listens; only its owner reaches it.
        cache: what vLLM compiles is kept there, so that the next start is quicker.
        plain: the adapter under which the base answers; one slot more is for it.

    Raises:
        SettingsError: `[vllm] max_rank` is above what vLLM has slots for.
    """
    cpu = engine.device == "cpu"
    slots = engine.slots + (plain is not None)
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(base.path),
        "--served-model-name", BASE_NAME,
        "--uds", str(socket),
        "--dtype", engine.dtype,
        "--max-model-len", str(vllm.context_length or base.context_length),
        "--max-num-seqs", str(engine.max_batch),
        "--max-loras", str(slots),
        # One more than slots: an adapter that goes while another comes is not read again mid-step.
        "--max-cpu-loras", str(slots + 1),
        "--max-lora-rank", str(slot_rank(vllm.max_rank)),
        *_FIXED,
        *(["--enforce-eager"] if cpu else
          ["--gpu-memory-utilization", str(vllm.gpu_memory_utilization)]),
        *vllm.arguments,
    ]  # fmt: skip
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_CACHE_ROOT": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }
    if cpu:
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, engine.memory_mib >> 10)),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(engine.threads or os.cpu_count() or 1),
        }
    return Launch(command, environment, socket, plain)


def slot_rank(rank: int) -> int:
    """The smallest rank that vLLM has slots for and that holds `rank`."""
    for known in _RANKS:
        if known >= rank:
            return known
    raise SettingsError(f"[vllm] max_rank is at most {_RANKS[-1]}, got {rank}")


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What a replica may take over from our own environment."""
    return {name: value for name, value in environment.items() if not name.startswith(_DROPPED)}
