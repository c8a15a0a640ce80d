"""Static checks of an adapter that a stranger may have made. Every fault has one reason code.

Nothing is executed and no tensor library is asked: the files are read as bytes, here and in
adapter_weights.py. Order: what is in the folder, the configuration, the weights' header, the
numbers, the digest; the first fault names the reason.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from appliance.core.adapters import CONFIG, FILES, RECORD, WEIGHTS, content_digest
from appliance.core.digests import Digest, short
from appliance.core.errors import AdapterError
from serving.adapter_shapes import MAX_RANK, linear_layers
from serving.adapter_weights import check_weights, unique_names

REASONS = (
    "missing_file", "path_traversal", "pickle", "extra_files", "malformed", "duplicate_keys",
    "truncated", "dora", "modules_to_save", "wrong_base", "wrong_rank", "over_rank",
    "foreign_modules", "nan", "infinite", "zero_b", "digest_mismatch",
)  # fmt: skip
"""All that can be wrong."""

_NEXT_STEPS = {
    "missing_file": "give the folder that PEFT's save_pretrained wrote, with safetensors",
    "wrong_base": "add the base that it was trained on (espalier base add DIR), or train anew",
    "nan": "do not use it: its training diverged; train it again at a lower learning rate",
    "infinite": "do not use it: its training diverged; train it again at a lower learning rate",
    "truncated": "copy it again from where it was made",
    "digest_mismatch": "fetch it again from where it was made",
    "pickle": "save it again as safetensors, and do not open the file: reading a pickle runs code",
}


def next_step_for(reason: str) -> str:
    """What to do about an adapter that is refused for this reason."""
    return _NEXT_STEPS.get(
        reason, "do not use it; train it again as plain LoRA of the linear layers"
    )


_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_CONFIG_MAX_BYTES = 1 << 20
# PEFT options that change what the weights mean and that no engine of ours applies.
_UNSUPPORTED = (
    "alora_invocation_tokens", "alpha_pattern", "corda_config", "eva_config", "exclude_modules",
    "fan_in_fan_out", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_bias", "megatron_config", "rank_pattern", "target_parameters", "trainable_token_indices",
    "use_qalora", "use_rslora",
)  # fmt: skip


class LoraConfig(msgspec.Struct, frozen=True):
    """What we read of ``adapter_config.json``."""

    r: int
    lora_alpha: float
    target_modules: list[str]


def verify_adapter(
    folder: Path,
    base: Digest,
    config: Mapping[str, Any],
    *,
    expected: Digest | None = None,
) -> Digest:
    """The adapter's content digest, if it is fit to be loaded on this base.

    Args:
        folder: the PEFT directory.
        base: digest of the base it is to be loaded on; `config` is that base's config.json.
        expected: what its content digest must be; else what its own record says, if it has one.

    Raises:
        AdapterError: the first thing that is wrong, with its reason code.
    """
    _check_folder(folder)
    lora = _check_config(_object(folder / CONFIG))
    record = _object(folder / RECORD) if (folder / RECORD).exists() else {}
    if record.get("base", base) != base:
        raise AdapterError(
            "wrong_base",
            f"trained on base {short(str(record['base']))}, checked against {short(base)}",
        )
    check_weights(folder / WEIGHTS, linear_layers(config), rank=lora.r)
    content = content_digest(folder, base)
    wanted = expected or record.get("content", content)
    if content != wanted:
        raise AdapterError(
            "digest_mismatch", f"expected {short(str(wanted))}, its bytes are {short(content)}"
        )
    return content


def stated_base(folder: Path) -> str:
    """The base that an adapter says it was trained on: a digest, a name, or nothing.

    Raises:
        AdapterError: the first thing that is wrong up to there.
    """
    _check_folder(folder)
    config = _object(folder / CONFIG)
    _check_config(config)
    record = _object(folder / RECORD) if (folder / RECORD).exists() else {}
    stated = record.get("base") or config.get("base_model_name_or_path")
    return stated if isinstance(stated, str) else ""


def base_config(path: Path) -> dict[str, Any]:
    """The config.json of a registered base."""
    config: dict[str, Any] = msgspec.json.decode((path / "config.json").read_bytes())
    return config


def _check_folder(folder: Path) -> None:
    """Exactly our files, plain ones, nothing that could be unpickled."""
    if not folder.is_dir():
        raise AdapterError("missing_file", f"no folder {folder}")
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        if (folder / name).is_symlink():
            raise AdapterError("path_traversal", f"{name} is a link; its target is not checked")
    for name in names:
        if Path(name).suffix.lower() in _PICKLES:
            raise AdapterError("pickle", f"{name} would run code when it is read")
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise AdapterError("missing_file", f"no {name} in {folder}")
    if extra := [name for name in names if name not in FILES or not (folder / name).is_file()]:
        raise AdapterError(
            "extra_files", f"an adapter holds {', '.join(FILES)} and nothing else, got {extra[0]}"
        )


def _check_config(raw: dict[str, Any]) -> LoraConfig:
    if raw.get("use_dora"):
        raise AdapterError("dora", "use_dora: no engine here applies magnitudes")
    if raw.get("modules_to_save"):
        raise AdapterError("modules_to_save", f"modules_to_save: {raw['modules_to_save']}")
    if raw.get("peft_type") != "LORA":
        raise AdapterError("malformed", f"peft_type must be LORA, got {raw.get('peft_type')!r}")
    if set_ := [name for name in _UNSUPPORTED if raw.get(name)]:
        raise AdapterError("malformed", f"{set_[0]} is not supported, got {raw[set_[0]]!r}")
    if raw.get("bias", "none") != "none":
        raise AdapterError("malformed", f"bias must be none, got {raw['bias']!r}")
    if not isinstance(raw.get("init_lora_weights", True), bool):
        raise AdapterError("malformed", "init_lora_weights of a kind that changes the base")
    base = raw.get("base_model_name_or_path")
    if isinstance(base, str) and (base.startswith(("/", "~")) or ".." in Path(base).parts):
        raise AdapterError("path_traversal", f"base_model_name_or_path points at {base!r}")
    try:
        lora = msgspec.convert(raw, LoraConfig)
    except msgspec.ValidationError as error:
        raise AdapterError("malformed", f"{CONFIG}: {error}") from error
    if not 1 <= lora.r <= MAX_RANK:
        reason = "over_rank" if lora.r > MAX_RANK else "wrong_rank"
        raise AdapterError(reason, f"rank must be 1 to {MAX_RANK}, got {lora.r}")
    if not (math.isfinite(lora.lora_alpha) and lora.lora_alpha > 0):
        raise AdapterError("malformed", f"lora_alpha must be above 0, got {lora.lora_alpha}")
    return lora


def _object(path: Path) -> dict[str, Any]:
    """A JSON object in which no name stands twice: two readers could take different ones."""
    if path.stat().st_size > _CONFIG_MAX_BYTES:
        raise AdapterError("malformed", f"{path.name} is larger than {_CONFIG_MAX_BYTES} bytes")
    try:
        value = json.loads(path.read_bytes(), object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise AdapterError("malformed", f"{path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AdapterError("malformed", f"{path.name} must hold a JSON object")
    return value
