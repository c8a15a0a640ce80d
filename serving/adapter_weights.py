"""The weights file of an adapter: a safetensors header read by hand, and the numbers behind it.

The format: 8 bytes little-endian header size, a JSON header, then the tensors' bytes without gaps.
The usual readers accept names that stand twice, and NaN; both are refused here.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.core.errors import AdapterError
from serving.adapter_shapes import KNOWN_LAYERS, MAX_RANK

_HEADER_MAX_BYTES = 16 << 20
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_NAME = re.compile(r"base_model\.model\.(?P<layer>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

Layers = Mapping[str, tuple[int, int]]


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the header; offsets count from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def check_weights(path: Path, layers: Layers, *, rank: int) -> None:
    """Raise unless the file holds LoRA weights of this rank for these layers, all of them finite.

    Raises:
        AdapterError: the first thing that is wrong, with its reason code.
    """
    data = path.read_bytes()
    header, start = _header(data)
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    _check_names(tensors, layers)
    _check_layout(tensors, len(data) - start)
    _check_shapes(tensors, layers, rank)
    _check_numbers(tensors, memoryview(data)[start:])


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    if data.startswith(_PICKLE_STARTS):
        raise AdapterError("pickle", "the weights file is a pickle that calls itself safetensors")
    size = int.from_bytes(data[:8], "little")
    if len(data) >= 8 and size > _HEADER_MAX_BYTES:
        raise AdapterError("malformed", f"a header of {size} bytes is no header")
    if len(data) < 8 or 8 + size > len(data):
        raise AdapterError("truncated", f"the header needs {8 + size} bytes, there are {len(data)}")
    try:
        header = json.loads(data[8 : 8 + size], object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise AdapterError("malformed", f"the weights' header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise AdapterError("malformed", "the weights' header must be a JSON object")
    header.pop("__metadata__", None)
    if not header:
        raise AdapterError("malformed", "the weights file holds no tensors")
    return header, 8 + size


def _tensor(name: str, entry: Any) -> Tensor:
    try:
        tensor = msgspec.convert(entry, Tensor)
    except msgspec.ValidationError as error:
        raise AdapterError("malformed", f"tensor {name[:80]!r}: {error}") from error
    if tensor.dtype not in _ITEM_BYTES or min(tensor.shape, default=1) < 0:
        raise AdapterError(
            "malformed", f"tensor {name[:80]!r} has dtype {tensor.dtype}, shape {tensor.shape}"
        )
    return tensor


def _check_names(tensors: Mapping[str, Tensor], layers: Layers) -> None:
    for name in tensors:
        if ".." in name or "/" in name or "\\" in name:
            raise AdapterError("path_traversal", f"tensor name {name[:80]!r}")
        if "lora_magnitude_vector" in name:
            raise AdapterError("dora", f"tensor {name!r}")
        if "modules_to_save" in name:
            raise AdapterError("modules_to_save", f"tensor {name!r}")
        match = _NAME.fullmatch(name)
        layer = match["layer"] if match else ""
        if match is None or layer.rpartition(".")[2] not in KNOWN_LAYERS:
            raise AdapterError(
                "foreign_modules", f"{name[:120]!r} is no LoRA weight of a linear layer"
            )
        if layer not in layers:
            raise AdapterError("wrong_base", f"the base has no layer {layer!r}")
        side = "B" if match["side"] == "A" else "A"
        if f"base_model.model.{layer}.lora_{side}.weight" not in tensors:
            raise AdapterError("malformed", f"{layer} has no lora_{side}")


def _check_layout(tensors: Mapping[str, Tensor], size: int) -> None:
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        first, last = tensor.data_offsets
        count = 1
        for dimension in tensor.shape:
            count *= dimension
        if first != end or last - first != count * _ITEM_BYTES[tensor.dtype]:
            raise AdapterError("malformed", f"the bytes of {name!r} are not where they belong")
        end = last
    if end != size:
        reason = "truncated" if end > size else "malformed"
        raise AdapterError(reason, f"the tensors need {end} bytes, there are {size}")


def _check_shapes(tensors: Mapping[str, Tensor], layers: Layers, rank: int) -> None:
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or len(tensor.shape) != 2:
            raise AdapterError("malformed", f"{name} must be a matrix, has shape {tensor.shape}")
        inputs, outputs = layers[match["layer"]]
        got, width = tensor.shape if match["side"] == "A" else tensor.shape[::-1]
        wanted = inputs if match["side"] == "A" else outputs
        if width != wanted:
            raise AdapterError(
                "wrong_base", f"{name} has width {width}, the base's layer has {wanted}"
            )
        if got > MAX_RANK:
            raise AdapterError("over_rank", f"{name} has rank {got}, at most {MAX_RANK}")
        if got != rank:
            raise AdapterError("wrong_rank", f"{name} has rank {got}, the config says {rank}")


def _check_numbers(tensors: Mapping[str, Tensor], data: memoryview) -> None:
    effect = False
    for name, tensor in tensors.items():
        values = _values(tensor, data)
        if np.isnan(values).any():
            raise AdapterError("nan", f"{name} holds NaN")
        if np.isinf(values).any():
            raise AdapterError("infinite", f"{name} holds an infinite number")
        effect = effect or (".lora_B." in name and bool(values.any()))
    if not effect:
        raise AdapterError("zero_b", "every lora_B is zero: the adapter has no effect")


def _values(tensor: Tensor, data: memoryview) -> NDArray[np.float32] | NDArray[np.float16]:
    raw = data[tensor.data_offsets[0] : tensor.data_offsets[1]]
    if tensor.dtype == "F32":
        return np.frombuffer(raw, "<f4")
    if tensor.dtype == "F16":
        return np.frombuffer(raw, "<f2")
    # bfloat16 is the upper half of a float32.
    return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: an object whose names are all different; two readers could differ on it.

    Raises:
        AdapterError: reason ``duplicate_keys``.
    """
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise AdapterError("duplicate_keys", f"{twice[:80]!r} stands twice in one object")
    return value
