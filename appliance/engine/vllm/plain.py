"""An adapter that changes nothing, under which the base itself answers where vLLM runs on a CPU.

vLLM 0.32's PyTorch fallback gives a row without an adapter the slot -1, which in a mixed batch is
the last slot: the base answers with somebody's weights. With this adapter no row is without one.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from appliance.core.adapters import CONFIG, WEIGHTS
from appliance.core.errors import UsageError
from appliance.core.files import publish
from appliance.engine.bases import WEIGHTS as BASE_WEIGHTS
from appliance.engine.bases import Base
from appliance.engine.safetensors_file import read_header


def plain_folder(base: Base, cache: Path) -> Path:
    """Where the adapter of a base stands."""
    return cache / f"plain-{base.path.name[:16]}"


def write_plain_adapter(base: Base, folder: Path) -> None:
    """Make the adapter: rank 1, of one layer of `base`, its B all zero.

    Raises:
        UsageError: the base has no such layer.
    """
    header, _ = read_header(base.path / BASE_WEIGHTS)
    layer = min((name for name in header if name.endswith(".o_proj.weight")), default="")
    if not layer:
        raise UsageError(
            f"base {base.name} has no layer o_proj; on a CPU vLLM cannot serve it here"
        )
    folder.mkdir(parents=True, exist_ok=True)
    outputs, inputs = header[layer].shape
    stem = f"base_model.model.{layer.removesuffix('.weight')}"
    tensors = {
        f"{stem}.lora_A.weight": np.zeros((1, inputs), np.float32),
        f"{stem}.lora_B.weight": np.zeros((outputs, 1), np.float32),
    }
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "bias": "none",
              "target_modules": ["o_proj"], "base_model_name_or_path": base.digest}  # fmt: skip
    publish(folder / WEIGHTS, save(tensors))
    publish(folder / CONFIG, json.dumps(config).encode())
